//! What a pickle holds. Containers lie side by side and name each other by number, so that neither deep nor circular ones
//! overflow a stack.

use std::io;
use std::rc::Rc;

/// The reason why a pickle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// The file cannot be read, or ends too early.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no pickle, or is damaged.
    #[error("{0}")]
    Content(String),
}

/// How much of a file may stand in memory: values on the stack, in containers and remembered, together. Each takes less than
/// 100 bytes.
#[derive(Clone, Copy, Debug)]
pub struct PickleLimit(pub usize);

/// What a pickle holds. Containers lie side by side and name each other by number, so that neither deep nor circular ones
/// overflow a stack.
#[derive(Debug)]
pub struct Pickle {
    pub(super) root: Value,
    pub(super) nodes: Vec<Node>,
}

/// A value of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    Nothing,
    /// A truth value.
    Bool(bool),
    /// A whole number of at most 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Text(Rc<str>),
    /// Bytes, which stay in the file.
    Bytes {
        /// Where they begin in the file.
        offset: u64,
        /// How many they are.
        length: u64,
    },
    /// A class or function by its name, and nothing more.
    Global(Rc<Global>),
    /// A container, tensor or array: see the methods of [`Pickle`].
    Node(NodeId),
    /// Anything else, and what it is, for messages.
    Opaque(Rc<str>),
}

/// The place of a container, tensor or array in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(pub(super) u32);

/// The name of a class or function.
#[derive(Debug, PartialEq, Eq)]
pub struct Global {
    /// The module.
    pub module: Box<str>,
    /// The name in it.
    pub name: Box<str>,
}

/// What is not a single value.
#[derive(Debug)]
pub(super) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dictionary(Vec<(Value, Value)>),
    Storage(Rc<Storage>),
    Tensor(Box<TensorView>),
    Array(Box<Array>),
    NumberType { name: Rc<str>, big_endian: bool },
    Opaque(Rc<str>),
}

/// Values of one type that tensors are views of; torch keeps them outside of the pickle.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage {
    /// The name of its class, e.g. `HalfStorage`.
    pub class: Box<str>,
    /// The name under which its bytes are found.
    pub key: Box<str>,
    /// The element at which it begins, where it is a part of what the key names.
    pub first: u64,
    /// Number of its elements.
    pub elements: u64,
}

/// A torch tensor: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorView {
    /// The storage.
    pub storage: Rc<Storage>,
    /// The element of the storage at which it begins.
    pub offset: u64,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// How many elements further the next one lies in each dimension.
    pub strides: Vec<usize>,
    /// The name of its type, where the storage's class does not say it, e.g. `float8_e4m3fn`.
    pub dtype: Option<Box<str>>,
    /// Whether torch turns signs when the values are used: its conjugate or negative bit.
    pub lazy: bool,
}

/// A numpy array whose values are in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Array {
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The name of its type as numpy writes it, e.g. `f4`.
    pub dtype: Box<str>,
    /// Whether each number's first byte is its highest.
    pub big_endian: bool,
    /// Whether it is stored column by column.
    pub column_major: bool,
    /// Where its values begin in the file.
    pub offset: u64,
    /// Bytes of its values.
    pub length: u64,
}

impl Pickle {
    /// The value that the pickle is.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// The entries of a dictionary, in order.
    pub fn dictionary(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dictionary(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a dictionary under a text; the last one, where it stands twice, as Python has it.
    pub fn get(&self, dictionary: &Value, key: &str) -> Option<&Value> {
        let entries = self.dictionary(dictionary)?;
        let found = entries
            .iter()
            .rev()
            .find(|(name, _)| matches!(name, Value::Text(name) if &**name == key));
        found.map(|(_, value)| value)
    }

    /// The items of a tuple or list.
    pub fn items(&self, value: &Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// A torch tensor.
    pub fn tensor(&self, value: &Value) -> Option<&TensorView> {
        match self.node(value)? {
            Node::Tensor(view) => Some(view),
            _ => None,
        }
    }

    /// A numpy array.
    pub fn array(&self, value: &Value) -> Option<&Array> {
        match self.node(value)? {
            Node::Array(array) => Some(array),
            _ => None,
        }
    }

    /// All torch storages that the pickle names, each once.
    pub fn storages(&self) -> impl Iterator<Item = &Rc<Storage>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// What a value is, for messages.
    pub fn kind(&self, value: &Value) -> String {
        kind(&self.nodes, value)
    }

    fn node(&self, value: &Value) -> Option<&Node> {
        node(&self.nodes, value)
    }
}

pub(super) fn node<'a>(nodes: &'a [Node], value: &Value) -> Option<&'a Node> {
    match value {
        Value::Node(NodeId(id)) => nodes.get(*id as usize),
        _ => None,
    }
}

pub(super) fn kind(nodes: &[Node], value: &Value) -> String {
    match value {
        Value::Nothing => "nothing".into(),
        Value::Bool(_) => "a truth value".into(),
        Value::Int(_) | Value::Float(_) => "a number".into(),
        Value::Text(_) => "a text".into(),
        Value::Bytes { .. } => "bytes".into(),
        Value::Global(global) => format!("the name {}.{}", global.module, global.name),
        Value::Opaque(what) => what.to_string(),
        Value::Node(_) => match node(nodes, value) {
            Some(Node::Tuple(_)) => "a tuple".into(),
            Some(Node::List(_)) => "a list".into(),
            Some(Node::Dictionary(_)) => "a dictionary".into(),
            Some(Node::Storage(_)) => "a storage".into(),
            Some(Node::Tensor(_)) => "a tensor".into(),
            Some(Node::Array(_)) => "an array".into(),
            Some(Node::NumberType { .. }) => "a number type".into(),
            Some(Node::Opaque(what)) => what.to_string(),
            None => "nothing".into(),
        },
    }
}
