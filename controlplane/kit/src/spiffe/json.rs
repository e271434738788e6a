//! JSON from peers, stricter than `serde_json` reads it: no member twice (the last would win silently), no deep nesting. Whole as a
//! [`Value`], or an object's members one by one without building any.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The deepest nesting read.
const MAX_DEPTH: usize = 32;
/// The most members of an object that is read member by member: each name is compared with all before it.
const MAX_MEMBERS: usize = 128;

/// Parses exactly one document.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    whole(bytes, Tree { depth: MAX_DEPTH })
}

/// Hands every member of exactly one object to `take`, in order. What `take` does not keep is still checked.
///
/// # Errors
/// As [`parse`], or if it is not an object.
pub(super) fn members<'de>(bytes: &'de [u8], take: impl FnMut(&str, Member<'de>)) -> Result<(), serde_json::Error> {
    whole(bytes, Members { take, depth: MAX_DEPTH })
}

/// The value of a member, as far as anybody here wants to know.
#[derive(Debug, PartialEq)]
pub(super) enum Member<'de> {
    Text(Cow<'de, str>),
    Number(Number),
    /// A list of texts; one that holds anything else is `Other`.
    Texts(Vec<Cow<'de, str>>),
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Whole(u64),
    Other(f64),
}

fn whole<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> Result<S::Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// How many levels may still be opened, less one.
fn deeper<E: Error>(depth: usize) -> Result<usize, E> {
    depth.checked_sub(1).ok_or_else(|| E::custom("nested more than 32 deep"))
}

fn twice<E: Error>(name: &str) -> E {
    let name: String = name.chars().take(80).collect();
    E::custom(format!("member {name:?} appears twice"))
}

/// A whole document. `depth`: how many levels may still be opened.
#[derive(Clone, Copy)]
struct Tree {
    depth: usize,
}
impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let inner = Self { depth: deeper(self.depth)? };
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let inner = Self { depth: deeper(self.depth)? };
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let value = from.next_value_seed(inner)?;
            if members.contains_key(&name) {
                return Err(twice(&name));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// A text, borrowed unless it was escaped.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// One object, its members handed out.
struct Members<F> {
    take: F,
    depth: usize,
}

impl<'de, F: FnMut(&str, Member<'de>)> DeserializeSeed<'de> for Members<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str, Member<'de>)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut from: A) -> Result<(), A::Error> {
        let inner = Leaf { depth: deeper(self.depth)? };
        let mut names = Vec::<Cow<'de, str>>::with_capacity(8);
        while let Some(name) = from.next_key_seed(Text)? {
            if names.contains(&name) {
                return Err(twice(&name));
            }
            if names.len() == MAX_MEMBERS {
                return Err(A::Error::custom("an object with more than 128 members"));
            }
            (self.take)(&name, from.next_value_seed(inner)?);
            names.push(name);
        }
        Ok(())
    }
}

/// One value, checked whole and kept if it is simple.
#[derive(Clone, Copy)]
struct Leaf {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Leaf {
    type Value = Member<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Leaf {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Member::Number(Number::Whole(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Member::Number(Number::Other(number as f64))) // negative: its exact size is of no interest
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Member::Number(Number::Other(number)))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let inner = Self { depth: deeper(self.depth)? };
        let mut texts = Some(Vec::new());
        while let Some(item) = from.next_element_seed(inner)? {
            match (item, &mut texts) {
                (Member::Text(text), Some(texts)) => texts.push(text),
                _ => texts = None,
            }
        }
        Ok(texts.map_or(Member::Other, Member::Texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<Self::Value, A::Error> {
        Members { take: |_: &str, _| {}, depth: self.depth }.visit_map(from)?;
        Ok(Member::Other)
    }
}

#[cfg(test)]
mod tests;
