use std::fs;
use std::io::{Cursor, Write};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};

use super::*;

/// `{"step": 3, "model": {name: view, …}}` as torch pickles it: views `(name, class, key, elements, offset, shape, strides)`.
type View<'a> = (&'a str, &'a str, &'a str, i32, i32, &'a [i32], &'a [i32]);

fn text(text: &str) -> Vec<u8> {
    [
        b"X",
        &(text.len() as u32).to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

fn number(number: i32) -> Vec<u8> {
    [b"J", &number.to_le_bytes()[..]].concat()
}

fn tuple(sides: &[i32]) -> Vec<u8> {
    let sides: Vec<u8> = sides.iter().flat_map(|side| number(*side)).collect();
    [b"(", sides.as_slice(), b"t"].concat()
}

fn state(views: &[View<'_>]) -> Vec<u8> {
    let mut pickle = [
        b"\x80\x02}(",
        text("step").as_slice(),
        &number(3),
        &text("model"),
    ]
    .concat();
    pickle.extend(b"ccollections\nOrderedDict\n)R(");
    for (name, class, key, elements, offset, shape, strides) in views {
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(text("storage"));
        pickle.extend(format!("ctorch\n{class}\n").into_bytes());
        pickle.extend([text(key), text("cuda:0"), number(*elements)].concat());
        pickle.extend(b"tQ");
        pickle.extend([number(*offset), tuple(shape), tuple(strides)].concat());
        pickle.extend(b"\x89NtR");
    }
    pickle.extend(b"u");
    // torch keeps its `_metadata` in the dictionary's attributes.
    pickle.extend(b"}X\x09\0\0\0_metadata}sbu.");
    pickle
}

fn zipped(root: &str, entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, content) in entries {
        zip.start_file(format!("{root}{name}"), options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn legacy(pickle: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut file = [b"\x80\x02", legacy::MAGIC_NUMBER].concat();
    file.extend(b"\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    file.extend(pickle);
    file.extend(b"\x80\x02](");
    storages.iter().for_each(|(key, ..)| file.extend(text(key)));
    file.extend(b"e.");
    for (_, elements, content) in storages {
        file.extend(elements.to_le_bytes());
        file.extend(*content);
    }
    file
}

fn open(content: &[u8]) -> Result<(tempfile::TempDir, TorchFile), CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    fs::write(&path, content).unwrap();
    TorchFile::open(&path, &["model"]).map(|file| (dir, file))
}

fn refusal(content: &[u8]) -> String {
    open(content).map(|_| ()).unwrap_err().to_string()
}

fn halves(file: &TorchFile, name: &str) -> Vec<u16> {
    let bytes = file.read(file.find(name).unwrap()).unwrap();
    let value = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    bytes.chunks(2).map(value).collect()
}

const VIEWS: [View<'static>; 4] = [
    ("whole", "HalfStorage", "0", 6, 0, &[2, 3], &[3, 1]),
    ("tied", "HalfStorage", "0", 6, 0, &[2, 3], &[3, 1]),
    ("transposed", "HalfStorage", "0", 6, 0, &[3, 2], &[1, 3]),
    ("second.row", "HalfStorage", "0", 6, 3, &[1, 3], &[99, 1]),
];

fn storage() -> Vec<u8> {
    (1..=6_u16).flat_map(u16::to_le_bytes).collect()
}

#[test]
fn both_formats_give_the_same_views_of_a_shared_storage() {
    let (pickle, storage) = (state(&VIEWS), storage());
    let entries = [
        ("data.pkl", pickle.as_slice()),
        ("data/0", &storage),
        ("version", b"3\n"),
        (".data/serialization_id", b"1"),
    ];
    let stored = CompressionMethod::Stored;
    let files = [
        zipped("checkpoint_4/", &entries, stored),
        zipped("some/folder/", &entries, stored),
        legacy(&pickle, &[("0", 6, &storage)]),
    ];
    for content in files {
        let (_dir, file) = open(&content).unwrap();
        assert_eq!(file.section(), Some("model"));
        let step = LeftOut {
            name: "step".into(),
            what: "a number".into(),
            is_tensor: false,
        };
        assert_eq!(file.left_out(), [step]);
        let names: Vec<_> = file.tensors().iter().map(|tensor| &*tensor.name).collect();
        assert_eq!(names, ["second.row", "tied", "transposed", "whole"]);
        assert_eq!(halves(&file, "whole"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(halves(&file, "tied"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(halves(&file, "transposed"), [1, 4, 2, 5, 3, 6]);
        assert_eq!(halves(&file, "second.row"), [4, 5, 6]);
        let row = file.find("second.row").unwrap();
        assert_eq!(row.place.strides, None, "a side of 1 has any stride");
    }
}

#[test]
fn numbers_of_a_big_endian_machine_are_turned_round() {
    let (pickle, storage) = (state(&VIEWS[..1]), storage());
    let entries = [
        ("data.pkl", pickle.as_slice()),
        ("data/0", &storage),
        ("byteorder", b"big"),
    ];
    let (_dir, file) = open(&zipped("a/", &entries, CompressionMethod::Stored)).unwrap();
    assert_eq!(halves(&file, "whole")[..2], [1 << 8, 2 << 8]);
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    let (pickle, storage) = (state(&VIEWS), storage());
    let entries = [("data.pkl", pickle.as_slice()), ("data/0", &storage)];
    for whole in [
        zipped("a/", &entries, CompressionMethod::Stored),
        legacy(&pickle, &[("0", 6, &storage)]),
    ] {
        for length in 0..whole.len() {
            assert!(
                open(&whole[..length]).is_err(),
                "{length} of {} bytes",
                whole.len()
            );
        }
    }
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_named() {
    let storage = storage();
    let of = |view: View<'_>| {
        let pickle = state(&[view]);
        let entries = [
            ("data.pkl", pickle.as_slice()),
            ("data/0", storage.as_slice()),
        ];
        [
            zipped("a/", &entries, CompressionMethod::Stored),
            legacy(&pickle, &[("0", 6, &storage)]),
        ]
    };
    for content in of(("w", "HalfStorage", "0", 6, 1, &[6], &[1])) {
        let error = refusal(&content);
        assert!(
            error.contains("tensor 'w' (shape [6])")
                && error.contains("12 bytes and its storage has 10"),
            "{error}"
        );
    }
    for content in of(("w", "HalfStorage", "0", 6, 0, &[2, 3], &[4, 1])) {
        assert!(refusal(&content).contains("spans 14 bytes"));
    }
    for content in of((
        "w",
        "HalfStorage",
        "0",
        6,
        0,
        &[2_000_000_000, 2_000_000_000, 2_000_000_000],
        &[0, 0, 0],
    )) {
        assert!(refusal(&content).contains("no file holds so many"));
    }
    for content in of(("w", "HalfStorage", "0", 6, -1, &[1], &[1])) {
        assert!(refusal(&content).contains("it has no tensors"));
    }
    assert!(
        refusal(&of(("w", "HalfStorage", "1", 6, 0, &[6], &[1]))[0])
            .contains("its storage '1' is not in the file")
    );
    assert!(
        refusal(&of(("w", "QInt8Storage", "0", 6, 0, &[6], &[1]))[0])
            .contains("its entries are: step, w (a tensor of the type QInt8Storage")
    );
}

#[test]
fn files_that_are_no_dictionary_of_tensors_say_what_they_are() {
    let stored = CompressionMethod::Stored;
    let zip = |pickle: &[u8]| refusal(&zipped("a/", &[("data.pkl", pickle)], stored));
    assert!(
        zip(b"\x80\x02cmodels\nNet\n)\x81}b.")
            .contains("a call of models.Net instead of a dictionary")
    );
    assert!(
        zip(b"\x80\x02}X\x03\0\0\0lenK\x01s.").contains("it has no tensors; its entries are: len")
    );
    assert!(refusal(&zipped("a/", &[("other", b"")], stored)).contains("without a data.pkl"));
    let program = zipped(
        "a/",
        &[("data.pkl", b"\x80\x02}."), ("constants.pkl", b"")],
        stored,
    );
    assert!(refusal(&program).contains("TorchScript"));
    assert!(refusal(b"<!DOCTYPE html><html>404").contains("a page that a download gave"));
    assert!(refusal(b"\x80\x04]q\0aaaaaaaaaaaaaaaaaaaaaaaa").contains("torch did not write"));
}

#[test]
fn tensors_of_types_that_are_not_read_are_left_out_beside_others() {
    let mut views = VIEWS[..1].to_vec();
    views.push(("freqs_cis", "ComplexFloatStorage", "1", 1, 0, &[1], &[1]));
    let pickle = state(&views);
    let content = legacy(&pickle, &[("0", 6, &storage()), ("1", 1, &[0; 8])]);
    let (_dir, file) = open(&content).unwrap();
    assert_eq!(halves(&file, "whole"), [1, 2, 3, 4, 5, 6]);
    let left = file.left_out().last().unwrap();
    assert!(left.is_tensor && left.name == "freqs_cis", "{left:?}");
    assert!(left.what.contains("ComplexFloatStorage"), "{left:?}");
}

#[test]
fn tensors_whose_sign_is_a_bit_of_torch_are_left_out_and_not_read_with_the_other_sign() {
    let plain = state(&VIEWS[..2]);
    let end = b"\x89NtR";
    let at = plain.windows(end.len()).position(|bytes| bytes == end);
    let (before, behind) = plain.split_at(at.unwrap());
    let bit = b"\x89N}X\x03\0\0\0neg\x88stR";
    let pickle = [before, bit, &behind[end.len()..]].concat();
    let (_dir, file) = open(&legacy(&pickle, &[("0", 6, &storage())])).unwrap();
    assert_eq!(file.tensors().len(), 1, "the tensor without the bit");
    let left = file.left_out().last().unwrap();
    assert!(
        left.is_tensor && left.what.contains("resolve_neg()"),
        "{left:?}"
    );
}

#[test]
fn the_older_format_is_read_whatever_its_protocol_and_the_machine_it_names() {
    let pickle = state(&VIEWS);
    let older = legacy(&pickle, &[("0", 6, &storage())]);
    // torch does not look at the machine.
    let at = older.iter().position(|byte| *byte == 0x88).unwrap();
    let mut other_machine = older.clone();
    other_machine[at] = 0x89;
    let frame = [b"\x80\x04\x95", &13_u64.to_le_bytes()[..]].concat();
    let framed = [frame.as_slice(), &older[2..]].concat();
    for content in [other_machine, framed] {
        let (_dir, file) = open(&content).unwrap();
        assert_eq!(halves(&file, "transposed"), [1, 4, 2, 5, 3, 6]);
    }
}

#[test]
fn a_storage_that_is_not_what_its_checksum_says_is_refused_with_the_tensor() {
    let (pickle, storage) = (state(&VIEWS), storage());
    let entries = [("data.pkl", pickle.as_slice()), ("data/0", &storage)];
    let mut content = zipped("a/", &entries, CompressionMethod::Stored);
    let at = content
        .windows(storage.len())
        .position(|bytes| bytes == storage)
        .unwrap();
    content[at] ^= 1;
    let (_dir, file) = open(&content).unwrap();
    // A part of the storage, and one in another order, are as wrong as all of it.
    for tensor in file.tensors() {
        let error = file.read(tensor).unwrap_err();
        let message = error.to_string();
        let name = format!("'{}'", tensor.name);
        assert!(
            message.contains(&name) && message.contains("checksum"),
            "{message}"
        );
    }
}
