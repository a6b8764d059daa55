//! The stack machine of the pickle format: every operation of protocols 0 to 5.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek};
use std::rc::Rc;

use super::classes;
use super::input::Input;
use super::value::{Global, Node, NodeId, Pickle, PickleError, PickleLimit, Value, kind};

/// See the module.
pub(super) struct Machine<'a, R> {
    input: Input<'a, R>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    nodes: Vec<Node>,
    /// Values in containers.
    held: usize,
    limit: PickleLimit,
}

impl<'a, R: Read + Seek> Machine<'a, R> {
    pub(super) fn new(
        reader: &'a mut BufReader<R>,
        position: u64,
        end: u64,
        limit: PickleLimit,
    ) -> Self {
        Self {
            input: Input::new(reader, position, end),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nodes: Vec::new(),
            held: 0,
            limit,
        }
    }

    /// Reads up to the operation that ends a pickle.
    pub(super) fn run(mut self) -> Result<(Pickle, u64), PickleError> {
        loop {
            let code = self.input.byte()?;
            if code == b'.' {
                break;
            }
            self.step(code)?;
            let standing = self.stack.len() + self.marks.len() + self.memo.len();
            if standing + self.nodes.len() + self.held > self.limit.0 {
                let limit = self.limit.0;
                let reason = format!("more than {limit} values: no weight file has so many");
                return Err(PickleError::Content(reason));
            }
        }
        let pickle = Pickle {
            root: self.pop()?,
            nodes: self.nodes,
        };
        Ok((pickle, self.input.position))
    }

    fn step(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            // PROTO, FRAME, and buffers outside of the file, which no file has
            0x80 => drop(self.input.byte()?),
            0x95 => drop(self.input.bytes::<8>()?),
            0x97 => self.push(Value::Opaque("a buffer outside of the file".into())),
            0x98 => {}
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => {
                let value = self.top()?.clone();
                self.push(value);
            }
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.remember(code)?,
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G'
            | b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => {
                let value = self.value(code)?;
                self.push(value);
            }
            b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'}' | b'd' | b'a' | b'e' | b's' | b'u' => {
                self.container(code)?;
            }
            0x8f => self.push(Value::Opaque("a set".into())),
            0x90 => drop(self.marked()?),
            0x91 => {
                self.marked()?;
                self.push(Value::Opaque("a set".into()));
            }
            _ => self.object(code)?,
        }
        Ok(())
    }

    /// Operations that write to the memo and read from it.
    fn remember(&mut self, code: u8) -> Result<(), PickleError> {
        let at = match code {
            b'p' | b'g' => self.input.line()?.trim().parse().map_err(|_| no_number())?,
            b'q' | b'h' => self.input.byte()?.into(),
            b'r' | b'j' => u32::from_le_bytes(self.input.bytes()?).into(),
            _ => self.memo.len() as u64,
        };
        if matches!(code, b'g' | b'h' | b'j') {
            let value = self.memo.get(&at).cloned();
            let nothing = || PickleError::Content("a reference to nothing".into());
            self.push(value.ok_or_else(nothing)?);
        } else {
            let value = self.top()?.clone();
            self.memo.insert(at, value);
        }
        Ok(())
    }

    /// Operations that stand for a single value.
    fn value(&mut self, code: u8) -> Result<Value, PickleError> {
        let input = &mut self.input;
        Ok(match code {
            b'N' => Value::Nothing,
            0x88 | 0x89 => Value::Bool(code == 0x88),
            b'I' => match &*input.line()? {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                number => Value::Int(number.trim().parse().map_err(|_| no_number())?),
            },
            b'J' => Value::Int(i32::from_le_bytes(input.bytes()?).into()),
            b'K' => Value::Int(input.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(input.bytes()?).into()),
            b'L' => match input.line()?.trim_end_matches('L').parse() {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Opaque("a number of more than 64 bits".into()),
            },
            0x8a => {
                let length = input.byte()?.into();
                input.integer(length)?
            }
            0x8b => {
                let length = u32::from_le_bytes(input.bytes()?).into();
                input.integer(length)?
            }
            b'F' => Value::Float(input.line()?.trim().parse().map_err(|_| no_number())?),
            b'G' => Value::Float(f64::from_be_bytes(input.bytes()?)),
            b'S' => {
                let line = input.line()?;
                let quoted = line.trim();
                let text = quoted.get(1..quoted.len().saturating_sub(1));
                Value::Text(text.unwrap_or_default().into())
            }
            b'V' => Value::Text(input.line()?),
            b'U' | 0x8c => {
                let length = input.byte()?.into();
                input.text(length)?
            }
            b'T' | b'X' => {
                let length = u32::from_le_bytes(input.bytes()?).into();
                input.text(length)?
            }
            0x8d => {
                let length = u64::from_le_bytes(input.bytes()?);
                input.text(length)?
            }
            b'C' => {
                let length = input.byte()?.into();
                input.skip(length)?
            }
            b'B' => {
                let length = u32::from_le_bytes(input.bytes()?).into();
                input.skip(length)?
            }
            _ => {
                let length = u64::from_le_bytes(input.bytes()?);
                input.skip(length)?
            }
        })
    }

    /// Operations that make and fill tuples, lists and dictionaries.
    fn container(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            b')' => self.make(Node::Tuple(Vec::new()))?,
            b't' | b'l' => {
                let values = self.marked()?;
                self.make(match code {
                    b't' => Node::Tuple(values),
                    _ => Node::List(values),
                })?;
            }
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(code - 0x84));
                let values = self.stack.split_off(from.ok_or_else(underflow)?);
                self.make(Node::Tuple(values))?;
            }
            b']' => self.make(Node::List(Vec::new()))?,
            b'}' => self.make(Node::Dictionary(Vec::new()))?,
            b'd' => {
                let values = self.marked()?;
                self.make(Node::Dictionary(Vec::new()))?;
                self.insert(values)?;
            }
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' => {
                let values = self.marked()?;
                self.append(values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![key, value])?;
            }
            _ => {
                let values = self.marked()?;
                self.insert(values)?;
            }
        }
        Ok(())
    }

    /// Operations that name classes and make objects of them. Few classes are known; of others nothing is done but that the
    /// stack stays in order.
    fn object(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.push(global(&module, &name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.push(match (&module, &name) {
                    (Value::Text(module), Value::Text(name)) => global(module, name),
                    _ => Value::Opaque("a class without a name".into()),
                });
            }
            0x82 => self.extension(1)?,
            0x83 => self.extension(2)?,
            0x84 => self.extension(4)?,
            b'P' => {
                self.input.line()?;
                self.push(Value::Opaque("an object outside of the file".into()));
            }
            b'Q' => {
                let id = self.pop()?;
                match classes::storage(&self.nodes, &id) {
                    Some(storage) => self.make(Node::Storage(Rc::new(storage)))?,
                    None => self.push(Value::Opaque("an object outside of the file".into())),
                }
            }
            // REDUCE, NEWOBJ; a class that is called and one that is made without a call give the same here
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(&function, &arguments)?;
            }
            // NEWOBJ_EX
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(&class, &arguments)?;
            }
            // INST
            b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.marked()?;
                self.push(classes::opaque(&format!("an object of {module}.{name}")));
            }
            // OBJ
            b'o' => {
                let values = self.marked()?;
                let class = values.first().ok_or_else(underflow)?;
                let what = kind(&self.nodes, class);
                let what = what.strip_prefix("the name ").unwrap_or(&what);
                self.push(classes::opaque(&format!("an object of {what}")));
            }
            // BUILD
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?.clone();
                classes::build(&mut self.nodes, &object, &state);
            }
            other => {
                let reason = format!("it is no pickle: {other:#04x} is not an operation of one");
                return Err(PickleError::Content(reason));
            }
        }
        Ok(())
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Result<(), PickleError> {
        match classes::call(&self.nodes, function, arguments) {
            classes::Made::Node(node) => self.make(node),
            classes::Made::Value(value) => {
                self.push(value);
                Ok(())
            }
        }
    }

    /// A class by a number, which only the program that wrote it can tell.
    fn extension(&mut self, bytes: u64) -> Result<(), PickleError> {
        self.input.skip(bytes)?;
        self.push(Value::Opaque("an object by a number".into()));
        Ok(())
    }

    /// Adds to the list on top. What is no list is an object of a class that behaves like one.
    fn append(&mut self, mut values: Vec<Value>) -> Result<(), PickleError> {
        let list = self.top()?.clone();
        if let Some(Node::List(items)) = node_mut(&mut self.nodes, &list) {
            self.held += values.len();
            items.append(&mut values);
        }
        Ok(())
    }

    /// Adds keys and values in turn to the dictionary on top. What is none is an object of a class that behaves like one.
    fn insert(&mut self, values: Vec<Value>) -> Result<(), PickleError> {
        let dictionary = self.top()?.clone();
        if let Some(Node::Dictionary(entries)) = node_mut(&mut self.nodes, &dictionary) {
            self.held += values.len();
            let mut values = values.into_iter();
            while let (Some(key), Some(value)) = (values.next(), values.next()) {
                entries.push((key, value));
            }
        }
        Ok(())
    }

    /// Puts a new container on the stack.
    fn make(&mut self, node: Node) -> Result<(), PickleError> {
        let id = u32::try_from(self.nodes.len());
        let id = id.map_err(|_| PickleError::Content("more values than can be counted".into()))?;
        self.held += match &node {
            Node::Tuple(items) | Node::List(items) => items.len(),
            Node::Dictionary(entries) => 2 * entries.len(),
            _ => 0,
        };
        self.nodes.push(node);
        self.push(Value::Node(NodeId(id)));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        self.stack.pop().ok_or_else(underflow)
    }

    fn top(&self) -> Result<&Value, PickleError> {
        self.stack.last().ok_or_else(underflow)
    }

    /// The values above the last mark.
    fn marked(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop();
        let mark = mark.filter(|mark| *mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(underflow)?))
    }
}

fn node_mut<'n>(nodes: &'n mut [Node], value: &Value) -> Option<&'n mut Node> {
    match value {
        Value::Node(NodeId(id)) => nodes.get_mut(*id as usize),
        _ => None,
    }
}

fn global(module: &str, name: &str) -> Value {
    Value::Global(Rc::new(Global {
        module: module.into(),
        name: name.into(),
    }))
}

fn no_number() -> PickleError {
    PickleError::Content("it is no pickle: a number that is none".into())
}

fn underflow() -> PickleError {
    PickleError::Content("it is no pickle: an operation without its values".into())
}
