//! Which foreign trust domains the workloads of an entry may verify: chosen by the operator, resolved against the relationships
//! that there are.

use std::collections::{BTreeMap, BTreeSet};

use symbolon_proto::ids::TrustDomain;

use crate::model::Relationships;

/// What an entry says. An entry that says nothing federates with every relationship; one that says something, with exactly that,
/// which may be nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederatesWith {
    /// By name; also before there is such a relationship.
    pub trust_domains: BTreeSet<TrustDomain>,
    /// Every relationship that carries all of these; empty: none by label.
    pub labels: BTreeMap<String, String>,
    /// Every relationship.
    pub all: bool,
    /// Never these, however they were chosen.
    pub except: BTreeSet<TrustDomain>,
}

/// The trust domains that `said` comes to, in order.
pub fn resolve(said: Option<&FederatesWith>, known: &Relationships) -> Vec<TrustDomain> {
    let Some(said) = said else { return known.keys().cloned().collect() };
    let labelled = |labels: &BTreeMap<String, String>| {
        !said.labels.is_empty() && said.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    };
    let chosen = known.iter().filter(|(_, labels)| said.all || labelled(labels)).map(|(domain, _)| domain);
    let mut domains: BTreeSet<_> = said.trust_domains.iter().chain(chosen).cloned().collect();
    domains.retain(|domain| !said.except.contains(domain));
    domains.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(names: &[&str]) -> BTreeSet<TrustDomain> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn unset_is_everybody_and_set_is_exactly_what_it_says() {
        let known: Relationships = [
            ("b.example", &[("env", "prod"), ("team", "pay")][..]),
            ("c.example", &[("env", "prod")]),
            ("d.example", &[]),
        ]
        .into_iter()
        .map(|(name, pairs)| (name.parse().unwrap(), labels(pairs)))
        .collect();
        let nothing = FederatesWith::default();
        let cases: [(Option<FederatesWith>, &[&str]); 8] = [
            (None, &["b.example", "c.example", "d.example"]),
            (Some(nothing.clone()), &[]),
            (
                Some(FederatesWith { trust_domains: domains(&["d.example", "x.example"]), ..nothing.clone() }),
                &["d.example", "x.example"],
            ),
            (
                Some(FederatesWith { labels: labels(&[("env", "prod")]), ..nothing.clone() }),
                &["b.example", "c.example"],
            ),
            (
                Some(FederatesWith { labels: labels(&[("env", "prod"), ("team", "pay")]), ..nothing.clone() }),
                &["b.example"],
            ),
            (Some(FederatesWith { labels: labels(&[("env", "test")]), ..nothing.clone() }), &[]),
            (
                Some(FederatesWith { all: true, except: domains(&["c.example"]), ..nothing.clone() }),
                &["b.example", "d.example"],
            ),
            (
                Some(FederatesWith {
                    labels: labels(&[("env", "prod")]),
                    trust_domains: domains(&["d.example"]),
                    except: domains(&["b.example"]),
                    ..nothing
                }),
                &["c.example", "d.example"],
            ),
        ];
        for (said, expected) in cases {
            let resolved = resolve(said.as_ref(), &known);
            assert_eq!(resolved.iter().map(TrustDomain::as_str).collect::<Vec<_>>(), expected, "{said:?}");
        }
    }
}
