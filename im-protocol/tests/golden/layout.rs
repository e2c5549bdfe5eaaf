//! Lays JSON out for people, in the order in which it was written.

use std::{fmt, fmt::Write};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// What fits into this many columns stands on one line.
const COLUMNS: usize = 100;

enum Node {
    Leaf(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// The same JSON, laid out.
pub(crate) fn laid_out(json: &str) -> String {
    let node: Node = serde_json::from_str(json).unwrap();
    let mut out = String::new();
    node.write(&mut out, 0, 0);
    out
}

impl Node {
    fn one_line(&self) -> String {
        match self {
            Self::Leaf(json) => json.clone(),
            Self::List(items) => format!("[{}]", join(items.iter().map(Self::one_line))),
            Self::Map(members) if members.is_empty() => "{}".into(),
            Self::Map(members) => {
                format!(
                    "{{ {} }}",
                    join(members.iter().map(|(name, node)| format!("{name}: {}", node.one_line())))
                )
            }
        }
    }

    /// `used`: how many columns stand before the node on its first line.
    fn write(&self, out: &mut String, indent: usize, used: usize) {
        let line = self.one_line();
        if used + line.chars().count() <= COLUMNS {
            out.push_str(&line);
            return;
        }
        let inner = indent + 2;
        match self {
            Self::Leaf(json) => out.push_str(json),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    new_line(out, index, inner);
                    item.write(out, inner, inner);
                }
                write!(out, "\n{:indent$}]", "").unwrap();
            }
            Self::Map(members) => {
                out.push('{');
                for (index, (name, node)) in members.iter().enumerate() {
                    new_line(out, index, inner);
                    write!(out, "{name}: ").unwrap();
                    node.write(out, inner, inner + name.chars().count() + 2);
                }
                write!(out, "\n{:indent$}}}", "").unwrap();
            }
        }
    }
}

fn new_line(out: &mut String, index: usize, indent: usize) {
    let comma = if index == 0 { "" } else { "," };
    write!(out, "{comma}\n{:indent$}", "").unwrap();
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Ordered)
    }
}

struct Ordered;

impl<'de> Visitor<'de> for Ordered {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(leaf(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(leaf(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(leaf(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(leaf(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(leaf(value))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(leaf(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some((name, node)) = map.next_entry::<String, Node>()? {
            members.push((Value::from(name).to_string(), node));
        }
        Ok(Node::Map(members))
    }
}

fn leaf(value: impl Into<Value>) -> Node {
    Node::Leaf(value.into().to_string())
}
