use std::fs;

use safetensors::SafeTensors;

use super::*;

/// `{"d1": [[1, 2, 3], [4, 5, 6]], "d2": [[-1, 0, 0.5], [7, 8, 9]]}` as numpy 2.4 pickles it in each protocol. The original's
/// Python 3.7 uses protocol 3, where its numpy says `numpy.core` instead of `numpy._core`.
#[rustfmt::skip]
const FORMS: [(u8, &[u8]); 3] = [
    (3, b"\x80\x03}q\x00(X\x02\x00\x00\x00d1q\x01cnumpy._core.multiarray\x0a_reconstruct\x0aq\x02cnumpy\x0andarray\x0aq\x03K\x00\x85q\x04C\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02K\x03\x86q\x08cnumpy\x0adtype\x0aq\x09X\x02\x00\x00\x00f4q\x0a\x89\x88\x87q\x0bRq\x0c(K\x03X\x01\x00\x00\x00<q\x0dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89C\x18\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@\x00\x00\xc0@q\x0ftq\x10bX\x02\x00\x00\x00d2q\x11h\x02h\x03K\x00\x85q\x12h\x05\x87q\x13Rq\x14(K\x01K\x02K\x03\x86q\x15h\x0c\x89C\x18\x00\x00\x80\xbf\x00\x00\x00\x00\x00\x00\x00?\x00\x00\xe0@\x00\x00\x00A\x00\x00\x10Aq\x16tq\x17bu."),
    (4, b"\x80\x04\x95\xe9\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x02d1\x94\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02K\x03\x86\x94h\x05\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x18\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@\x00\x00\xc0@\x94t\x94b\x8c\x02d2\x94h\x04h\x07K\x00\x85\x94h\x09\x87\x94R\x94(K\x01K\x02K\x03\x86\x94h\x11\x89C\x18\x00\x00\x80\xbf\x00\x00\x00\x00\x00\x00\x00?\x00\x00\xe0@\x00\x00\x00A\x00\x00\x10A\x94t\x94bu."),
    (5, b"\x80\x05\x95\xcf\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x02d1\x94\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96\x18\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@\x00\x00\xc0@\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x02K\x03\x86\x94\x8c\x01C\x94t\x94R\x94\x8c\x02d2\x94h\x04(\x96\x18\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\xbf\x00\x00\x00\x00\x00\x00\x00?\x00\x00\xe0@\x00\x00\x00A\x00\x00\x10A\x94h\x0bK\x02K\x03\x86\x94h\x0ft\x94R\x94u."),
];
/// The arrays of [`FORMS`], in f64.
#[rustfmt::skip]
const DOUBLES: &[u8] = b"\x80\x03}q\x00X\x02\x00\x00\x00d1q\x01cnumpy._core.multiarray\x0a_reconstruct\x0aq\x02cnumpy\x0andarray\x0aq\x03K\x00\x85q\x04C\x01bq\x05\x87q\x06Rq\x07(K\x01K\x01\x85q\x08cnumpy\x0adtype\x0aq\x09X\x02\x00\x00\x00f8q\x0a\x89\x88\x87q\x0bRq\x0c(K\x03X\x01\x00\x00\x00<q\x0dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89C\x08\x00\x00\x00\x00\x00\x00\xf0?q\x0ftq\x10bs.";
/// A dictionary whose value is made by a call of `posix.system`.
#[rustfmt::skip]
const CALL: &[u8] = b"\x80\x03}q\x00X\x01\x00\x00\x00aq\x01cposix\x0asystem\x0aq\x02X\x08\x00\x00\x00echo badq\x03\x85q\x04Rq\x05s.";

/// Name, shape and values of each array.
type Arrays = Vec<(String, Vec<usize>, Vec<f32>)>;

fn import(files: &[&[u8]]) -> Result<Arrays, TrainingError> {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (number, content) in files.iter().enumerate() {
        paths.push(dir.path().join(format!("embeddings_{number}.pkl")));
        fs::write(&paths[number], content).unwrap();
    }
    let out = dir.path().join("out.safetensors");
    let count = import_embeddings(&paths, &out)?;
    let content = fs::read(out).unwrap();
    let tensors = SafeTensors::deserialize(&content).unwrap();
    let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let mut all: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            (
                name.to_owned(),
                tensor.shape().to_vec(),
                tensor.data().chunks_exact(4).map(value).collect(),
            )
        })
        .collect();
    all.sort_by(|one: &(String, _, Vec<f32>), other| one.0.cmp(&other.0));
    assert_eq!(count as usize, all.len());
    Ok(all)
}

fn refusal(files: &[&[u8]]) -> String {
    import(files).unwrap_err().to_string()
}

#[test]
fn a_dictionary_of_arrays_is_read_in_every_protocol() {
    for (protocol, content) in FORMS {
        let all = import(&[content]).unwrap();
        let first = (
            "d1".to_owned(),
            vec![2, 3],
            vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        );
        let second = (
            "d2".to_owned(),
            vec![2, 3],
            vec![-1.0, 0.0, 0.5, 7.0, 8.0, 9.0],
        );
        assert_eq!(all, [first, second], "protocol {protocol}");
    }
}

#[test]
fn older_names_of_numpy_modules_are_known() {
    let content = FORMS[0].1;
    let at = content
        .windows(5)
        .position(|part| part == b"_core")
        .unwrap();
    let old = [&content[..at], &content[at + 1..]].concat();
    assert_eq!(import(&[&old]).unwrap(), import(&[content]).unwrap());
}

#[test]
fn nothing_is_called_and_what_is_not_understood_is_named() {
    assert!(
        refusal(&[CALL]).contains("a call of posix.system"),
        "{}",
        refusal(&[CALL])
    );
    assert!(
        refusal(&[DOUBLES]).contains("an array of f8"),
        "{}",
        refusal(&[DOUBLES])
    );
    assert!(refusal(&[b"\x80\x03]q\x00."]).contains("a list instead of a dictionary"));
    assert!(refusal(&[b"\x80\x03K\x01."]).contains("a number instead of a dictionary"));
    let number = refusal(&[b"\x80\x03}X\x01\x00\x00\x00aK\x01s."]);
    assert!(
        number.contains("'a' is a number instead of an array"),
        "{number}"
    );
    let zip = refusal(&[b"PK\x03\x04\n\0"]);
    assert!(zip.contains("a zip file, as torch writes"), "{zip}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    for (protocol, content) in FORMS {
        for length in 0..content.len() {
            assert!(
                import(&[&content[..length]]).is_err(),
                "protocol {protocol}, {length} bytes"
            );
        }
    }
}

#[test]
fn splits_are_joined_and_an_id_in_two_of_them_is_an_error() {
    let renamed: Vec<u8> = FORMS[0]
        .1
        .windows(2)
        .map(|pair| {
            if pair[0] == b'd' && pair[1].is_ascii_digit() {
                b'e'
            } else {
                pair[0]
            }
        })
        .chain([b'.'])
        .collect();
    let all = import(&[FORMS[1].1, &renamed]).unwrap();
    assert_eq!(
        all.iter()
            .map(|(name, ..)| name.as_str())
            .collect::<Vec<_>>(),
        ["d1", "d2", "e1", "e2"]
    );
    assert!(refusal(&[FORMS[0].1, FORMS[2].1]).contains("'d1' is in"));
}
