use std::io::Cursor;

use super::*;

const LIMIT: PickleLimit = PickleLimit(100_000);

fn read(content: &[u8]) -> Result<Pickle, PickleError> {
    let mut reader = BufReader::new(Cursor::new(content));
    let (pickle, end) = Pickle::read(&mut reader, 0, content.len() as u64, LIMIT)?;
    assert_eq!(end, content.len() as u64);
    Ok(pickle)
}

fn root_kind(content: &[u8]) -> String {
    let pickle = read(content).unwrap();
    pickle.kind(pickle.root())
}

fn refusal(content: &[u8]) -> String {
    read(content).unwrap_err().to_string()
}

#[test]
fn plain_values_are_read_in_the_oldest_and_the_newest_protocol() {
    // pickle.dumps({"a": [1, -300, 2.5, True, None], "b": ("x", b"yz")}, 0) and the same with protocol 5
    let oldest = b"(dp0\nVa\np1\n(lp2\nI1\naI-300\naF2.5\naI01\naNasVb\np3\n(Vx\np4\nc_codecs\nencode\np5\n(Vyz\np6\nVlatin1\np7\ntp8\nRp9\ntp10\ns.";
    let newest = b"\x80\x05\x95*\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xd4\xfe\xff\xffG@\x04\x00\x00\x00\x00\x00\x00\x88Ne\x8c\x01b\x94\x8c\x01x\x94C\x02yz\x94\x86\x94u.";
    for content in [oldest.as_slice(), newest.as_slice()] {
        let pickle = read(content).unwrap();
        let list = pickle.items(pickle.get(pickle.root(), "a").unwrap());
        let expected = [
            Value::Int(1),
            Value::Int(-300),
            Value::Float(2.5),
            Value::Bool(true),
            Value::Nothing,
        ];
        assert_eq!(list.unwrap(), expected);
        let pair = pickle.items(pickle.get(pickle.root(), "b").unwrap());
        assert_eq!(pair.unwrap()[0], Value::Text("x".into()));
    }
}

/// Each way in which a pickle has something called or made: nothing happens, and what follows is still read.
#[test]
fn classes_that_are_not_known_are_never_called_and_leave_the_rest_readable() {
    let calls: [(&[u8], &str); 6] = [
        (
            b"cposix\nsystem\nX\x02\0\0\0id\x85R",
            "a call of posix.system",
        ),
        (b"cfoo\nBar\n)\x81}X\x01\0\0\0aK\x01sb", "a call of foo.Bar"),
        (b"cfoo\nBar\n)}\x92", "a call of foo.Bar"),
        (
            b"(X\x02\0\0\0idiposix\nsystem\n",
            "an object of posix.system",
        ),
        (
            b"(cposix\nsystem\nX\x02\0\0\0ido",
            "an object of posix.system",
        ),
        (b"\x82\x01", "an object by a number"),
    ];
    for (call, what) in calls {
        // As a list and a dictionary would be filled, too.
        let filled = [
            b"K\x01a(K\x01K\x02e(K\x01K\x02u(K\x01\x90K\x01K\x02s".as_slice(),
            b"\x85.",
        ]
        .concat();
        let content = [b"\x80\x04", call, &filled].concat();
        let pickle = read(&content).unwrap();
        let item = &pickle.items(pickle.root()).unwrap()[0];
        assert_eq!(pickle.kind(item), what);
    }
    assert_eq!(
        root_kind(b"\x80\x04X\x05\0\0\0posixX\x06\0\0\0system\x93."),
        "the name posix.system"
    );
    assert_eq!(
        root_kind(b"\x80\x02Pwhatever\n."),
        "an object outside of the file"
    );
}

#[test]
fn a_view_of_a_storage_is_a_tensor_however_it_is_wrapped() {
    let storage = b"((X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x007X\x03\0\0\0cpuK\x0ctQ";
    let view = [
        b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice(),
        storage,
        b"K\x02K\x03K\x02\x86K\x01K\x03\x86\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat();
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n(".as_slice(),
        &view,
        b"\x88ccollections\nOrderedDict\n)RtR",
    ]
    .concat();
    for content in [&view, &parameter] {
        let pickle = read(&[b"\x80\x02".as_slice(), content, b"."].concat()).unwrap();
        let tensor = pickle.tensor(pickle.root()).unwrap();
        assert_eq!(
            (tensor.offset, &*tensor.shape, &*tensor.strides),
            (2, [3, 2].as_slice(), [1, 3].as_slice())
        );
        assert_eq!(
            (
                &*tensor.storage.class,
                &*tensor.storage.key,
                tensor.storage.elements
            ),
            ("HalfStorage", "7", 12)
        );
        assert_eq!(pickle.storages().count(), 1);
    }
}

/// Millions of containers in each other, by each operation that makes one, and containers that hold themselves.
#[test]
fn deep_and_circular_values_overflow_no_stack() {
    for (first, again) in [
        (b")".as_slice(), b"\x85".as_slice()),
        (b")q\0", b"h\0\x86q\0"),
        (b"]", b"q\0]h\0a"),
    ] {
        let deep = [b"\x80\x04", first, &again.repeat(20_000), b"."].concat();
        assert!(["a tuple", "a list"].contains(&root_kind(&deep).as_str()));
        let deeper = [b"\x80\x04", first, &again.repeat(200_000), b"."].concat();
        assert!(refusal(&deeper).contains("more than 100000 values"));
    }
    assert_eq!(root_kind(b"\x80\x04]q\0h\0a."), "a list");
    assert_eq!(root_kind(b"\x80\x04}q\0X\x01\0\0\0ah\0s."), "a dictionary");
}

#[test]
fn few_bytes_do_not_become_much_memory() {
    // A list of a thousand pairs, given to an ordered dictionary again and again.
    let pairs = [
        b"\x80\x04](".as_slice(),
        &b"NN\x86".repeat(1000),
        b"e\x85q\0ccollections\nOrderedDict\nq\x01",
    ]
    .concat();
    let copies = [pairs, b"h\x01h\0R".repeat(1000), b".".to_vec()].concat();
    assert!(refusal(&copies).contains("more than 100000 values"));
    for long in [
        b"B\xff\xff\xff\xff".as_slice(),
        b"X\xff\xff\xff\xff",
        b"\x8e\0\0\0\0\0\0\0\x7f",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
    ] {
        assert!(matches!(
            read(&[b"\x80\x04", long].concat()),
            Err(PickleError::Io(_))
        ));
    }
}

#[test]
fn what_is_no_pickle_is_refused() {
    assert!(refusal(b"\x80\x04\xff.").contains("0xff is not an operation"));
    assert!(refusal(b"\x80\x04R.").contains("without its values"));
    assert!(refusal(b"\x80\x04t.").contains("without its values"));
    assert!(refusal(b"\x80\x04h\x09.").contains("a reference to nothing"));
    assert!(refusal(b"Ixyz\n.").contains("a number that is none"));
    assert!(matches!(read(b"\x80\x04]"), Err(PickleError::Io(_))));
}
