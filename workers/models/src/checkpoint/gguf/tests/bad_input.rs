//! Files that are as they should be, and every way in which one can be wrong.

use std::fs;
use std::time::{Duration, Instant};

use super::super::*;

/// The alignment of the files here.
const ALIGNED: usize = 32;

/// A file in parts, each of which a test can spoil.
struct Written {
    magic: [u8; 4],
    version: u32,
    counts: Option<(u64, u64)>,
    /// Keys with their written values.
    keys: Vec<(String, u32, Vec<u8>)>,
    /// Name, sides with the innermost first, type, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    values: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn array(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(values);
    bytes
}

/// Two tensors: `a`, two rows of 32 in Q4_1 (40 bytes), and `b`, 3 numbers in f32.
fn good() -> Written {
    let key = |key: &str, kind: u32, value: &[u8]| (key.to_owned(), kind, value.to_vec());
    Written {
        magic: *b"GGUF",
        version: 3,
        counts: None,
        keys: vec![
            key("general.architecture", 8, &text("llama")),
            key("u8", 0, &[200]),
            key("i8", 1, &[0xff]),
            key("u16", 2, &60_000_u16.to_le_bytes()),
            key("i16", 3, &(-2_i16).to_le_bytes()),
            key("u32", 4, &4_000_000_000_u32.to_le_bytes()),
            key("i32", 5, &(-3_i32).to_le_bytes()),
            key("f32", 6, &0.5_f32.to_le_bytes()),
            key("bool", 7, &[1]),
            key("u64", 10, &u64::MAX.to_le_bytes()),
            key("i64", 11, &(-4_i64).to_le_bytes()),
            key("f64", 12, &0.25_f64.to_le_bytes()),
            key(
                "texts",
                9,
                &array(8, 2, &[text("lung"), text("herz")].concat()),
            ),
            key("numbers", 9, &array(5, 2, &[1, 0, 0, 0, 2, 0, 0, 0])),
            key(
                "nested",
                9,
                &array(9, 2, &[array(7, 1, &[1]), array(0, 3, &[1, 2, 3])].concat()),
            ),
        ],
        tensors: vec![
            ("b".into(), vec![3], 0, 64),
            ("a".into(), vec![32, 2], 3, 0),
        ],
        values: (0..76).collect(),
    }
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let (tensors, keys) = self
            .counts
            .unwrap_or((self.tensors.len() as u64, self.keys.len() as u64));
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        for (key, kind, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, sides, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((sides.len() as u32).to_le_bytes());
            sides
                .iter()
                .for_each(|side| bytes.extend(side.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNED), 0);
        bytes.extend(&self.values);
        bytes
    }
}

fn open(bytes: &[u8]) -> Result<Gguf, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let gguf = Gguf::open(&path)?;
    for tensor in gguf.tensors() {
        let values = gguf.read(tensor)?;
        assert_eq!(Some(values.len()), tensor.size());
    }
    Ok(gguf)
}

/// The refusal of a good file that was spoilt in one way.
fn refusal(spoil: impl FnOnce(&mut Written)) -> String {
    let mut written = good();
    spoil(&mut written);
    let error = open(&written.bytes()).expect_err("it is not as it should be");
    let message = error.to_string();
    assert!(message.contains("model.gguf'"), "{message}");
    message
}

#[test]
fn both_versions_give_metadata_of_all_types_and_the_bytes_of_each_tensor() {
    for version in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let written = Written { version, ..good() };
        fs::write(&path, written.bytes()).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let value = |key: &str| gguf.metadata()[key].clone();
        assert_eq!(value("general.architecture").as_text(), Some("llama"));
        assert_eq!(value("u8").as_u64(), Some(200));
        assert_eq!(value("i8"), GgufValue::I8(-1));
        assert_eq!(value("i8").as_u64(), None, "a negative number");
        assert_eq!(value("u16").as_u64(), Some(60_000));
        assert_eq!(value("i16"), GgufValue::I16(-2));
        assert_eq!(value("u32").as_u64(), Some(4_000_000_000));
        assert_eq!(value("i32"), GgufValue::I32(-3));
        assert_eq!(value("f32").as_f64(), Some(0.5));
        assert_eq!(value("bool").as_bool(), Some(true));
        assert_eq!(value("u64").as_u64(), Some(u64::MAX));
        assert_eq!(value("i64"), GgufValue::I64(-4));
        assert_eq!(value("f64").as_f64(), Some(0.25));
        let texts = GgufArray::Text(vec!["lung".into(), "herz".into()]);
        assert_eq!(value("texts").as_array(), Some(&texts));
        assert_eq!(
            value("numbers").as_array(),
            Some(&GgufArray::I32(vec![1, 2]))
        );
        let nested = vec![GgufArray::Bool(vec![true]), GgufArray::U8(vec![1, 2, 3])];
        assert_eq!(value("nested").as_array(), Some(&GgufArray::Array(nested)));

        let [a, b] = gguf.tensors() else {
            panic!("two tensors")
        };
        assert_eq!((a.name.as_str(), a.shape.as_slice()), ("a", &[2, 32][..]));
        assert_eq!(a.dtype, StoredType::Ggml(GgmlDType::Q4_1));
        assert_eq!(gguf.read(a).unwrap(), (0..40).collect::<Vec<u8>>());
        assert_eq!(b.dtype, StoredType::Dense(Dtype::F32));
        assert_eq!(gguf.read(b).unwrap(), (64..76).collect::<Vec<u8>>());
    }
}

#[test]
fn another_format_version_or_byte_order_is_refused_by_its_name() {
    assert!(refusal(|file| file.magic = *b"GGML").contains("not with 'GGUF'"));
    assert!(refusal(|file| file.version = 1).contains("GGUF version 1"));
    assert!(refusal(|file| file.version = 4).contains("GGUF version 4"));
    assert!(refusal(|file| file.version = 3_u32.swap_bytes()).contains("big-endian"));
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    assert!(refusal(|file| file.counts = Some((u64::MAX, 1))).contains("tensors"));
    assert!(refusal(|file| file.counts = Some((2, u64::MAX))).contains("keys"));
    // One more than there are: the table is read as a key.
    refusal(|file| file.counts = Some((2, 16)));
    refusal(|file| file.counts = Some((3, 15)));
    for (kind, bytes) in [(0, 1), (4, 4), (8, 8), (9, 12), (12, 8)] {
        let message = refusal(|file| {
            file.keys[0] = ("k".into(), 9, array(kind, u64::MAX, &[]));
        });
        assert!(
            message.contains(&format!("of {bytes} bytes")) || message.contains("of 1 bytes"),
            "{message}"
        );
    }
    let message = refusal(|file| file.keys[0].2 = (u64::MAX).to_le_bytes().to_vec());
    assert!(message.contains("18446744073709551615 items"), "{message}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let bytes = good().bytes();
    for length in 0..bytes.len() {
        let error = open(&bytes[..length]).expect_err("a part is no file");
        assert!(error.to_string().contains("model.gguf'"), "{error}");
    }
}

#[test]
fn keys_and_names_that_are_doubled_empty_or_no_text_are_refused() {
    assert!(refusal(|file| file.keys[1].0 = "i8".into()).contains("'i8' stands twice"));
    assert!(refusal(|file| file.keys[1].0 = String::new()).contains("has 0 bytes"));
    assert!(refusal(|file| file.tensors[0].0 = "a".into()).contains("names it twice"));
    let message = refusal(|file| *file.keys[0].2.last_mut().unwrap() = 0xff);
    assert!(message.contains("not UTF-8"), "{message}");
    assert!(refusal(|file| file.keys[1].1 = 13).contains("has type 13"));
    assert!(refusal(|file| file.keys[8].2 = vec![2]).contains("truth value"));
    let deep = (0..5).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    assert!(refusal(|file| file.keys[1] = ("deep".into(), 9, deep)).contains("'deep'"));
}

#[test]
fn tensors_that_overlap_or_leave_the_file_are_refused_by_name_and_shape() {
    let message = refusal(|file| file.tensors[0].3 = 32);
    assert!(message.contains("'b' (shape [3])") && message.contains("'a' ends at"));
    let message = refusal(|file| file.tensors[0].3 = 96);
    assert!(message.contains("tensor 'b' (shape [3])"), "{message}");
    assert!(refusal(|file| file.tensors[0].3 = 65).contains("no multiple of 32"));
    refusal(|file| file.tensors[0].3 = u64::MAX - 31);
    refusal(|file| file.tensors[0].1 = vec![1 << 40]);
    refusal(|file| file.tensors[0].1 = vec![u64::MAX, u64::MAX, 2]);
    assert!(refusal(|file| file.tensors[0].1 = vec![0]).contains("a side of 0"));
    assert!(refusal(|file| file.tensors[0].1 = vec![]).contains("0 dimensions"));
    assert!(refusal(|file| file.tensors[0].1 = vec![1; 5]).contains("5 dimensions"));
    assert!(refusal(|file| file.tensors[1].1 = vec![33, 2]).contains("blocks of 32"));
    let message = refusal(|file| file.tensors[1].2 = 17);
    assert!(message.contains("'a' (shape [2, 32])") && message.contains("IQ2_XS (17)"));
    assert!(refusal(|file| file.tensors[1].2 = 4_000).contains("type 4000"));
}

#[test]
fn the_alignment_that_a_file_names_is_used_and_an_absurd_one_refused() {
    let key = |value: u32| (ALIGNMENT_KEY.to_owned(), 4, value.to_le_bytes().to_vec());
    for bad in [0, 24, 12] {
        let message = refusal(|file| file.keys.push(key(bad)));
        assert!(message.contains("no power of two"), "{message}");
    }
    let mut written = good();
    written.keys.push(key(16));
    written.tensors[0].3 = 48;
    // The values begin at a multiple of 32, which is one of 16: perhaps 16 bytes after where they should.
    let gguf = open(&written.bytes()).unwrap();
    assert_eq!(
        gguf.tensors()[1].place.offset - gguf.tensors()[0].place.offset,
        48
    );
}

/// Bytes of a file changed at random, the same each time: nothing panics, nothing is allocated that the file has no room
/// for. 2000 files, or as many as there is time for in `RADIALOG_FUZZ_SECONDS`.
#[test]
fn no_change_of_a_files_bytes_makes_the_reader_panic() {
    let seconds = std::env::var("RADIALOG_FUZZ_SECONDS").ok();
    let end = seconds.map(|text| {
        let seconds = text.parse().expect("RADIALOG_FUZZ_SECONDS is a number");
        Instant::now() + Duration::from_secs(seconds)
    });
    let more = |files: u32| match end {
        Some(end) => Instant::now() < end,
        None => files < 2000,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let good = good().bytes();
    let mut state = 11_u64;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut files, mut read) = (0, 0);
    while more(files) {
        files += 1;
        let mut bytes = good.clone();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes[at] = draw(256) as u8,
                1 => bytes[at] ^= 1 << draw(8),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + 8).min(bytes.len());
                    let extreme = [0, 1, 0x7f, 0xff][draw(4)];
                    bytes[at..end].fill(extreme);
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(gguf) = Gguf::open(&path) {
            read += 1;
            for tensor in gguf.tensors() {
                assert!(gguf.read(tensor).unwrap().len() <= bytes.len());
            }
        }
    }
    assert!(files == 0 || read < files, "some are refused");
}
