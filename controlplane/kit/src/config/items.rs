//! Files that hold many things of one kind: each document of the YAML is one of them, or a list of them.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{ConfigError, at, number, read, strict};

/// The largest file of many things.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// One thing of a file, and the line on which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    pub line: usize,
}

/// Reads every `T` of `path`, in order. As strict as a configuration file.
///
/// # Errors
/// If the file cannot be read, is larger than 16 MiB, is not YAML, or something in it is no `T`.
pub fn items<T: DeserializeOwned>(path: &Path) -> Result<Vec<At<T>>, ConfigError> {
    let failed = |message| ConfigError { path: path.to_owned(), line: 0, column: 0, message };
    let text = read(path, MAX_BYTES).map_err(failed)?;
    let options = strict(serde_saphyr::budget! {
        max_events: 4_000_000, max_nodes: 2_000_000, max_documents: 100_000, max_aliases: 1_000, max_anchors: 1_000,
        max_total_scalar_bytes: 16 * 1024 * 1024,
    });
    let documents: Vec<Spanned<OneOrMany<T>>> =
        serde_saphyr::from_multiple_with_options(&text, options).map_err(|error| at(path, &error))?;
    let mut items = Vec::new();
    for document in documents {
        match document.value {
            OneOrMany::One(value) => items.push(At { value, line: number(document.referenced.line()) }),
            OneOrMany::Many(many) => {
                items.extend(many.into_iter().map(|one| At { line: number(one.referenced.line()), value: one.value }))
            }
        }
    }
    Ok(items)
}

/// By hand, since serde's own way to try one form after the other loses the line of what is wrong.
enum OneOrMany<T> {
    One(T),
    Many(Vec<Spanned<T>>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one item, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element()? {
                    many.push(one);
                }
                Ok(OneOrMany::Many(many))
            }
        }

        from.deserialize_any(Either(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        name: String,
        #[serde(default)]
        tags: Vec<String>,
    }

    fn read(text: &str) -> Result<Vec<(usize, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.yaml");
        std::fs::write(&path, text).unwrap();
        let read =
            items::<Thing>(&path).map_err(|e| e.to_string().rsplit('/').next().unwrap_or_default().to_owned())?;
        Ok(read.into_iter().map(|one| (one.line, one.value.name)).collect())
    }

    fn named(all: &[(usize, &str)]) -> Vec<(usize, String)> {
        all.iter().map(|(line, name)| (*line, (*name).to_owned())).collect()
    }

    #[test]
    fn documents_and_lists_are_read_with_their_lines() {
        assert_eq!(read("name: a\n").unwrap(), named(&[(1, "a")]));
        assert_eq!(read("- name: a\n- {name: b, tags: [x]}\n").unwrap(), named(&[(1, "a"), (2, "b")]));
        assert_eq!(
            read("# first\nname: a\n---\n- name: b\n\n- name: c\n---\nname: d\n").unwrap(),
            named(&[(2, "a"), (4, "b"), (6, "c"), (8, "d")])
        );
        assert_eq!(read(r#"[{"name": "a"}]"#).unwrap(), named(&[(1, "a")]));
        for nothing in ["", "[]", "---\n---\n", "# only words\n"] {
            assert_eq!(read(nothing).unwrap(), [], "{nothing:?}");
        }
    }

    #[test]
    fn bad_130_and_132_what_is_wrong_is_refused_with_its_line() {
        for (text, why) in [
            ("- name: a\n- name: b\n  nmae: c\n", "things.yaml:3:3: unknown field \"nmae\"; did you mean \"name\"?"),
            ("name: a\n---\nname: b\ntag: c\n", "things.yaml:4:1: unknown field \"tag\"; did you mean \"tags\"?"),
            ("- tags: []\n", "things.yaml:1:3: field \"name\" is missing"),
            ("- name: a\n  name: b\n", "things.yaml:2:3: "),
            ("- name: 0777\n", "things.yaml:1:9: "),
            ("- name: 1e3\n", "things.yaml:1:9: "),
            ("- name: [a\n", "things.yaml:"),
            ("just words\n", "things.yaml: "),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.starts_with(why), "{text:?}: {said}");
        }
    }

    #[test]
    fn bad_140_a_list_that_is_missing_null_or_empty() {
        assert_eq!(read("- name: a\n").unwrap(), named(&[(1, "a")]));
        assert_eq!(read("- {name: a, tags: []}\n").unwrap(), named(&[(1, "a")]));
        assert!(read("- {name: a, tags: null}\n").is_err(), "null is no list");
    }

    #[test]
    fn ten_thousand_are_read() {
        let text: String = (0..10_000).map(|n| format!("- name: n{n}\n  tags: [\"unix:uid:{n}\", b, c]\n")).collect();
        assert_eq!(read(&text).unwrap().len(), 10_000);
    }
}
