//! The stack machine of Python's pickle format (PEP 307, 3154, 574), as far as dictionaries of numpy arrays use it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::rc::Rc;

/// A name or a line of the format is never longer.
const LONGEST_TEXT: u64 = 1 << 16;
/// Tuples in tuples: numpy nests two. Deep ones would overflow the stack where they are dropped.
const DEEPEST: usize = 16;

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    /// What it holds that is not understood.
    Unknown(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

/// A value on the stack.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// None, and numbers and flags that do not matter.
    Plain,
    Flag(bool),
    Number(i64),
    Text(Rc<str>),
    /// Bytes that stay in the file.
    Bytes {
        offset: u64,
        length: u64,
    },
    Tuple(Tuple),
    /// A class or function, by module and name.
    Global(Rc<str>, Rc<str>),
    /// A number type; true where it is f32 in little-endian order.
    Type(Rc<RefCell<NumberType>>),
    Array(Rc<RefCell<Array>>),
    Dictionary(Rc<RefCell<Vec<(String, Value)>>>),
}

/// Values that do not change any more, and how deep tuples are nested in them.
#[derive(Clone, Debug)]
pub(super) struct Tuple {
    values: Rc<[Value]>,
    depth: usize,
}

/// A numpy number type.
#[derive(Clone, Debug)]
pub(super) struct NumberType {
    name: Rc<str>,
    big_endian: bool,
}

/// A numpy array whose values are in the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// See the module.
pub(super) struct Machine<R: Read + Seek> {
    reader: BufReader<R>,
    position: u64,
    /// Of the file.
    length: u64,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
}

impl Value {
    /// A tuple of values that are not nested too deeply. A dictionary, to which values are added later, may be the whole
    /// file and part of nothing, so that a value is never deeper than when it was made.
    fn tuple(values: Vec<Value>) -> Result<Self, Fault> {
        let depth_of = |value: &Value| match value {
            Value::Tuple(tuple) => Ok(tuple.depth),
            Value::Dictionary(_) => Err(Fault::Unknown("a dictionary in a tuple".into())),
            _ => Ok(0),
        };
        let depths: Result<Vec<usize>, Fault> = values.iter().map(depth_of).collect();
        let depth = 1 + depths?.into_iter().max().unwrap_or(0);
        if depth > DEEPEST {
            return Err(Fault::Unknown(format!(
                "tuples nested deeper than {DEEPEST}"
            )));
        }
        let values = values.into();
        Ok(Value::Tuple(Tuple { values, depth }))
    }

    /// For messages.
    pub(super) fn kind(&self) -> String {
        match self {
            Value::Plain => "nothing, or a float".into(),
            Value::Flag(_) => "a truth value".into(),
            Value::Number(_) => "a number".into(),
            Value::Text(_) => "a text".into(),
            Value::Bytes { .. } => "bytes".into(),
            Value::Tuple(_) => "a tuple".into(),
            Value::Global(module, name) => format!("{module}.{name}"),
            Value::Type(_) => "a number type".into(),
            Value::Array(_) => "an array".into(),
            Value::Dictionary(_) => "a dictionary".into(),
        }
    }
}

impl<R: Read + Seek> Machine<R> {
    pub(super) fn new(reader: BufReader<R>, length: u64) -> Self {
        Self {
            reader,
            position: 0,
            length,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Reads to the end; the entries of the dictionary that the file is.
    pub(super) fn dictionary(mut self) -> Result<Vec<(String, Value)>, Fault> {
        loop {
            let [code] = self.bytes()?;
            if code == b'.' {
                break;
            }
            self.step(code)?;
        }
        match self.pop()? {
            Value::Dictionary(entries) => Ok(entries.take()),
            other => Err(Fault::Unknown(format!(
                "{} instead of a dictionary",
                other.kind()
            ))),
        }
    }

    fn step(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            // PROTO, FRAME
            0x80 => drop(self.bytes::<1>()?),
            0x95 => drop(self.bytes::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | b'G' => {
                self.skip(if code == b'G' { 8 } else { 0 })?;
                self.push(Value::Plain);
            }
            0x88 | 0x89 => self.push(Value::Flag(code == 0x88)),
            b'J' => {
                let number = i32::from_le_bytes(self.bytes()?);
                self.push(Value::Number(number.into()));
            }
            b'K' | b'M' | 0x8a => self.number(code)?,
            b'X' | 0x8c | 0x8d => {
                let length = self.size(code)?;
                let text = self.text(length)?;
                self.push(Value::Text(text));
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.size(code)?;
                let offset = self.position;
                self.skip(length)?;
                self.push(Value::Bytes { offset, length });
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name));
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push(Value::Global(module, name)),
                _ => return Err(Fault::Unknown("a class without a name".into())),
            },
            b'q' | b'r' | 0x94 => {
                let at = match code {
                    b'q' => u64::from(self.bytes::<1>()?[0]),
                    b'r' => u64::from(u32::from_le_bytes(self.bytes()?)),
                    _ => self.memo.len() as u64,
                };
                let value = self.top()?.clone();
                self.memo.insert(at, value);
            }
            b'h' | b'j' => {
                let at = match code {
                    b'h' => u64::from(self.bytes::<1>()?[0]),
                    _ => u64::from(u32::from_le_bytes(self.bytes()?)),
                };
                let value = self.memo.get(&at).cloned();
                self.push(value.ok_or_else(|| Fault::Unknown("a reference to nothing".into()))?);
            }
            b')' => self.push(Value::tuple(Vec::new())?),
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(code - 0x84));
                let values = self.stack.split_off(from.ok_or_else(underflow)?);
                self.push(Value::tuple(values)?);
            }
            b't' => {
                let values = self.marked()?;
                self.push(Value::tuple(values)?);
            }
            b'}' => self.push(Value::Dictionary(Rc::default())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert([key, value])?;
            }
            b'u' => {
                let values = self.marked()?;
                self.insert(values)?;
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = call(&function, &arguments)?;
                self.push(made);
            }
            b'b' => {
                let state = self.pop()?;
                build(self.top()?, &state)?;
            }
            other => return Err(Fault::Unknown(format!("the pickle operation {other:#04x}"))),
        }
        Ok(())
    }

    fn number(&mut self, code: u8) -> Result<(), Fault> {
        let number = match code {
            b'K' => i64::from(self.bytes::<1>()?[0]),
            b'M' => i64::from(u16::from_le_bytes(self.bytes()?)),
            _ => {
                let [length] = self.bytes()?;
                if length > 8 {
                    return Err(Fault::Unknown("a number of more than 64 bits".into()));
                }
                let mut bytes = [0; 8];
                for byte in &mut bytes[..usize::from(length)] {
                    *byte = self.bytes::<1>()?[0];
                }
                // The sign is that of the last byte given.
                let shift = 64 - 8 * u32::from(length);
                if length == 0 {
                    0
                } else {
                    i64::from_le_bytes(bytes) << shift >> shift
                }
            }
        };
        self.push(Value::Number(number));
        Ok(())
    }

    /// The length of a text or of bytes, in as many bytes as the operation has for it.
    fn size(&mut self, code: u8) -> Result<u64, Fault> {
        Ok(match code {
            b'C' | 0x8c => self.bytes::<1>()?[0].into(),
            b'B' | b'X' => u32::from_le_bytes(self.bytes()?).into(),
            _ => u64::from_le_bytes(self.bytes()?),
        })
    }

    /// Key and value in turn, into the dictionary below them.
    fn insert(&mut self, values: impl IntoIterator<Item = Value>) -> Result<(), Fault> {
        let Value::Dictionary(entries) = self.top()? else {
            return Err(Fault::Unknown("entries without a dictionary".into()));
        };
        let mut entries = entries.borrow_mut();
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            let Value::Text(key) = key else {
                return Err(Fault::Unknown(format!("{} as an id", key.kind())));
            };
            if matches!(value, Value::Dictionary(_)) {
                return Err(Fault::Unknown("a dictionary in a dictionary".into()));
            }
            entries.push((key.to_string(), value));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        self.stack.pop().ok_or_else(underflow)
    }

    fn top(&self) -> Result<&Value, Fault> {
        self.stack.last().ok_or_else(underflow)
    }

    /// The values above the last mark.
    fn marked(&mut self) -> Result<Vec<Value>, Fault> {
        let mark = self
            .marks
            .pop()
            .filter(|mark| *mark <= self.stack.len())
            .ok_or_else(underflow)?;
        Ok(self.stack.split_off(mark))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<(), Fault> {
        let end = self
            .position
            .checked_add(length)
            .filter(|end| *end <= self.length);
        self.position = end.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        // A file is far shorter than an i64 can tell.
        Ok(self.reader.seek_relative(length.cast_signed())?)
    }

    fn text(&mut self, length: u64) -> Result<Rc<str>, Fault> {
        if length > LONGEST_TEXT {
            return Err(Fault::Unknown(format!("a text of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        self.position += length;
        String::from_utf8(bytes)
            .map(Rc::from)
            .map_err(|_| Fault::Unknown("a text that is not UTF-8".into()))
    }

    fn line(&mut self) -> Result<Rc<str>, Fault> {
        let mut line = Vec::new();
        self.position += (&mut self.reader)
            .take(LONGEST_TEXT)
            .read_until(b'\n', &mut line)? as u64;
        let text = String::from_utf8(line)
            .map_err(|_| Fault::Unknown("a name that is not UTF-8".into()))?;
        Ok(text
            .strip_suffix('\n')
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?
            .into())
    }
}

fn underflow() -> Fault {
    Fault::Unknown("a pickle operation without its values".into())
}

/// What the few functions make that such files name; numpy has moved them between modules.
fn call(function: &Value, arguments: &Value) -> Result<Value, Fault> {
    let (Value::Global(module, name), Value::Tuple(arguments)) = (function, arguments) else {
        return Err(Fault::Unknown(format!("a call of {}", function.kind())));
    };
    match (
        module.split('.').next().unwrap_or_default(),
        &**name,
        &*arguments.values,
    ) {
        ("numpy", "_reconstruct", [Value::Global(_, class), ..]) if &**class == "ndarray" => {
            Ok(Value::Array(Rc::default()))
        }
        ("numpy", "dtype", [Value::Text(name), ..]) => {
            let number = NumberType {
                name: name.clone(),
                big_endian: false,
            };
            Ok(Value::Type(Rc::new(RefCell::new(number))))
        }
        ("numpy", "_frombuffer", [values, number, shape, order]) => {
            let array = Value::Array(Rc::default());
            let column_major = matches!(order, Value::Text(order) if &**order == "F");
            fill(&array, shape, number, column_major, values)?;
            Ok(array)
        }
        _ => Err(Fault::Unknown(format!("a call of {module}.{name}"))),
    }
}

/// Gives an object its state.
fn build(object: &Value, state: &Value) -> Result<(), Fault> {
    match (object, state) {
        (Value::Array(_), Value::Tuple(state)) => match &*state.values {
            [_, shape, number, Value::Flag(column_major), values] => {
                fill(object, shape, number, *column_major, values)
            }
            _ => Err(Fault::Unknown("an array of another kind".into())),
        },
        (Value::Type(number), Value::Tuple(state)) => {
            number.borrow_mut().big_endian =
                matches!(state.values.get(1), Some(Value::Text(order)) if &**order == ">");
            Ok(())
        }
        _ => Err(Fault::Unknown(format!("{} with a state", object.kind()))),
    }
}

fn fill(
    array: &Value,
    shape: &Value,
    number: &Value,
    column_major: bool,
    values: &Value,
) -> Result<(), Fault> {
    let (Value::Array(array), Value::Tuple(shape), Value::Type(number)) = (array, shape, number)
    else {
        return Err(Fault::Unknown("an array of another kind".into()));
    };
    let number = number.borrow();
    if &*number.name != "f4" || number.big_endian || column_major {
        let order = if column_major {
            ", column by column"
        } else {
            ""
        };
        return Err(Fault::Unknown(format!(
            "an array of {}{order}",
            number.name
        )));
    }
    let Value::Bytes { offset, length } = *values else {
        return Err(Fault::Unknown(format!(
            "{} as the values of an array",
            values.kind()
        )));
    };
    let side = |side: &Value| match side {
        Value::Number(side) => {
            usize::try_from(*side).map_err(|_| Fault::Unknown("a negative shape".into()))
        }
        other => Err(Fault::Unknown(format!("{} in a shape", other.kind()))),
    };
    let shape = shape.values.iter().map(side).collect::<Result<_, _>>()?;
    *array.borrow_mut() = Array {
        shape,
        offset,
        length,
    };
    Ok(())
}
