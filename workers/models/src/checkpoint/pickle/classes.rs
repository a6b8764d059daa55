//! The few classes and functions that are understood by their names: dictionaries of Python's library, torch's tensors,
//! numpy's arrays. None of them runs: what they would make is written down.

use std::rc::Rc;

use super::value::{Array, Global, Node, NodeId, Storage, TensorView, Value, kind, node};

/// Dimensions of a tensor or array; numpy and torch's files have fewer.
const MOST_DIMENSIONS: usize = 64;

/// Characters of a class's or storage's name that are kept. Real ones are shorter; values whose names are all long would make a
/// small file a large heap.
const LONGEST_NAME: usize = 200;

/// What a call gives.
pub(super) enum Made {
    Node(Node),
    Value(Value),
}

/// What a function or class gives for arguments.
pub(super) fn call(nodes: &[Node], function: &Value, arguments: &Value) -> Made {
    let known = match function {
        Value::Global(global) => arguments_of(nodes, arguments)
            .and_then(|arguments| known_call(nodes, global, arguments)),
        _ => None,
    };
    known.unwrap_or_else(|| {
        let what = kind(nodes, function);
        let what = what.strip_prefix("the name ").unwrap_or(&what);
        Made::Value(opaque(&format!("a call of {what}")))
    })
}

/// A value that is only known by a description.
pub(super) fn opaque(what: &str) -> Value {
    Value::Opaque(shortened(what).into())
}

/// The beginning of a name.
pub(super) fn shortened(name: &str) -> &str {
    let end = name.char_indices().nth(LONGEST_NAME);
    end.map_or(name, |(end, _)| &name[..end])
}

fn known_call(nodes: &[Node], function: &Global, arguments: &[Value]) -> Option<Made> {
    let library = function.module.split('.').next().unwrap_or_default();
    match (library, &*function.name, arguments) {
        ("collections", "OrderedDict", []) | ("builtins" | "__builtin__", "dict", []) => {
            Some(Made::Node(Node::Dictionary(Vec::new())))
        }
        ("collections", "defaultdict", _) => Some(Made::Node(Node::Dictionary(Vec::new()))),
        // Python 2 gives an ordered dictionary its entries as a list of pairs.
        ("collections", "OrderedDict", [entries]) => {
            let entries = arguments_of(nodes, entries)?.iter();
            let pair = |entry| match arguments_of(nodes, entry)? {
                [key, value] => Some((key.clone(), value.clone())),
                _ => None,
            };
            let entries = entries.map(pair).collect::<Option<_>>()?;
            Some(Made::Node(Node::Dictionary(entries)))
        }
        ("torch", "_rebuild_tensor" | "_rebuild_tensor_v2", arguments) => {
            tensor(nodes, arguments, None, arguments.get(6))
        }
        ("torch", "_rebuild_tensor_v3", arguments) => {
            let Some(Value::Global(dtype)) = arguments.get(6) else {
                return None;
            };
            tensor(nodes, arguments, Some(dtype.name.clone()), arguments.get(7))
        }
        ("torch", "_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => {
            matches!(node(nodes, data)?, Node::Tensor(_)).then(|| Made::Value(data.clone()))
        }
        // A tensor with attributes, or of a derived class: the inner function makes the tensor.
        ("torch", "_rebuild_from_type_v2", [Value::Global(inner), _, arguments, ..])
            if &*inner.name != "_rebuild_from_type_v2" =>
        {
            known_call(nodes, inner, arguments_of(nodes, arguments)?)
        }
        ("numpy", "_reconstruct", [Value::Global(class), ..]) if &*class.name == "ndarray" => {
            Some(Made::Node(Node::Array(Box::default())))
        }
        ("numpy", "dtype", [Value::Text(name), ..]) => Some(Made::Node(Node::NumberType {
            name: name.clone(),
            big_endian: false,
        })),
        ("numpy", "_frombuffer", [values, number, shape, order]) => {
            let column_major = matches!(order, Value::Text(order) if &**order == "F");
            let array = array(nodes, shape, number, column_major, values);
            Some(Made::Node(match array {
                Ok(array) => Node::Array(Box::new(array)),
                Err(what) => Node::Opaque(what.into()),
            }))
        }
        _ => None,
    }
}

/// Gives an object its state. Only numpy's objects have one that matters.
pub(super) fn build(nodes: &mut [Node], object: &Value, state: &Value) {
    let Value::Node(NodeId(id)) = *object else {
        return;
    };
    let Some(state) = arguments_of(nodes, state) else {
        return;
    };
    let made = match (&nodes[id as usize], state) {
        (Node::Array(_), [_, shape, number, Value::Bool(column_major), values]) => {
            match array(nodes, shape, number, *column_major, values) {
                Ok(array) => Node::Array(Box::new(array)),
                Err(what) => Node::Opaque(what.into()),
            }
        }
        (Node::Array(_), _) => Node::Opaque("an array of another kind".into()),
        (Node::NumberType { name, .. }, state) => Node::NumberType {
            name: name.clone(),
            big_endian: matches!(state.get(1), Some(Value::Text(order)) if &**order == ">"),
        },
        _ => return,
    };
    nodes[id as usize] = made;
}

/// The storage that a persistent id of torch names: `('storage', class, key, device, elements[, part])`, where a part is
/// `(key, first element, elements)`.
pub(super) fn storage(nodes: &[Node], id: &Value) -> Option<Storage> {
    let [
        Value::Text(word),
        Value::Global(class),
        key,
        _,
        elements,
        rest @ ..,
    ] = arguments_of(nodes, id)?
    else {
        return None;
    };
    if &**word != "storage" {
        return None;
    }
    let key = match key {
        Value::Text(key) => key.as_ref().into(),
        Value::Int(key) => key.to_string().into(),
        _ => return None,
    };
    let part = rest.first().and_then(|part| arguments_of(nodes, part));
    let (first, elements) = match part {
        Some([_, first, elements]) => (count(first)?, count(elements)?),
        _ => (0, count(elements)?),
    };
    Some(Storage {
        class: class.name.clone(),
        key,
        first,
        elements,
    })
}

/// `(storage, offset, shape, strides, …)`, with a dictionary of torch's bits or nothing.
fn tensor(
    nodes: &[Node],
    arguments: &[Value],
    dtype: Option<Box<str>>,
    bits: Option<&Value>,
) -> Option<Made> {
    let [storage, offset, shape, strides, ..] = arguments else {
        return None;
    };
    let Node::Storage(storage) = node(nodes, storage)? else {
        return None;
    };
    let (shape, strides) = (sides(nodes, shape)?, sides(nodes, strides)?);
    if shape.len() != strides.len() {
        return None;
    }
    let view = TensorView {
        storage: Rc::clone(storage),
        offset: count(offset)?,
        shape,
        strides,
        dtype,
        lazy: bits.is_some_and(|bits| is_lazy(nodes, bits)),
    };
    Some(Made::Node(Node::Tensor(Box::new(view))))
}

/// Whether a tensor's dictionary has the conjugate or the negative bit set.
fn is_lazy(nodes: &[Node], bits: &Value) -> bool {
    let Some(Node::Dictionary(entries)) = node(nodes, bits) else {
        return false;
    };
    let is_bit =
        |name: &Value| matches!(name, Value::Text(name) if ["conj", "neg"].contains(&&**name));
    entries
        .iter()
        .any(|(name, value)| is_bit(name) && *value == Value::Bool(true))
}

fn array(
    nodes: &[Node],
    shape: &Value,
    number: &Value,
    column_major: bool,
    values: &Value,
) -> Result<Array, String> {
    let other = || "an array of another kind".to_owned();
    let Some(Node::NumberType { name, big_endian }) = node(nodes, number) else {
        return Err(other());
    };
    let &Value::Bytes { offset, length } = values else {
        return Err(format!("{} as the values of an array", kind(nodes, values)));
    };
    Ok(Array {
        shape: sides(nodes, shape).ok_or_else(other)?,
        dtype: name.as_ref().into(),
        big_endian: *big_endian,
        column_major,
        offset,
        length,
    })
}

/// A shape or strides. A file could repeat a long one at no cost: it is bounded before it is copied.
fn sides(nodes: &[Node], value: &Value) -> Option<Vec<usize>> {
    let sides = arguments_of(nodes, value).filter(|sides| sides.len() <= MOST_DIMENSIONS)?;
    let sides = sides.iter();
    sides
        .map(|side| usize::try_from(count(side)?).ok())
        .collect()
}

fn arguments_of<'a>(nodes: &'a [Node], value: &Value) -> Option<&'a [Value]> {
    match node(nodes, value)? {
        Node::Tuple(items) | Node::List(items) => Some(items),
        _ => None,
    }
}

fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Int(count) => u64::try_from(*count).ok(),
        _ => None,
    }
}
