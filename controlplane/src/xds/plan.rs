//! What to send next of one type, found by comparing what the client holds with what it is to hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use envoy_types::pb::google::protobuf::Struct;

use crate::snapshot::Resource;

use super::kind::Kind;
use super::subscription::{Holds, Subscription, Table};
use super::wire::Variant;

/// The body of one response, before it gets a nonce.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub upserts: Vec<Arc<Resource>>,
    /// Named in a delta response; in a SotW one they are missing.
    pub removed: Vec<Arc<str>>,
    /// Upserts that are new to the client, as against sent again.
    pub changed: Vec<Arc<Resource>>,
    /// Upserts of an empty resource, where the variant has no way to say "there is none".
    absent: BTreeSet<Arc<str>>,
    /// To be sent even if it has no content.
    pub due: bool,
    /// An upsert waits for what it depends on; only this wait has a deadline.
    pub waiting: bool,
    /// With this sent and acknowledged, the client has everything of the type.
    pub whole: bool,
}

/// What other types have to say about this one.
pub(super) struct Gate<'a> {
    /// Whether the client has what this resource needs.
    pub ready: &'a dyn Fn(&Resource) -> bool,
    /// Whether nothing that the client holds needs this name any more.
    pub removable: &'a dyn Fn(&str) -> bool,
}

enum Choice {
    Known,
    New,
    Wait,
    Refused,
}

// === impl Plan ===

impl Plan {
    /// Whether there is nothing to send.
    pub(super) fn is_idle(&self) -> bool {
        !self.due && self.upserts.is_empty() && self.removed.is_empty()
    }

    /// Whether the upsert of `name` only says that there is none.
    pub(super) fn stands_for_nothing(&self, name: &str) -> bool {
        self.absent.contains(name)
    }
}

// === impl Subscription ===

impl Subscription {
    /// What to send now. Whether something is in flight is the caller's to heed.
    pub(super) fn plan(&self, table: &Table, gate: &Gate<'_>) -> Plan {
        let mut plan = Plan { whole: true, ..Plan::default() };
        match self.variant {
            Variant::Delta => {
                self.plan_upserts(table, gate, &mut plan);
                self.plan_removals(table, gate, &mut plan);
                plan.due = self.answer;
            }
            Variant::Sotw if self.kind.is_root() => self.plan_full(table, gate, &mut plan),
            Variant::Sotw => {
                self.plan_upserts(table, gate, &mut plan);
                self.plan_absent(table, &mut plan);
            }
        }
        plan
    }

    /// Learns from the snapshot what a reconnecting client's versions stand for, and drops rejections that content outlived.
    pub(super) fn resolve(&mut self, table: &Table) {
        if let Some(claimed) = self.claimed.take() {
            let wanted = self.wanted(table).map(|resource| (&resource.name, &resource.version));
            if version_of_type(wanted) == claimed {
                // The same content under the same names: it can only have got it from us or from a replica of us (13, 106), which
                // said of the other names that there is nothing.
                let absent = self.names.iter().filter(|name| !table.contains_key(*name));
                let absent = absent.map(|name| (name.clone(), Holds::Nothing));
                let known = self.wanted(table).map(|known| {
                    let (name, version) = (known.name.clone(), known.version.clone());
                    (name, Holds::Version { version, resource: Some(known.clone()) })
                });
                self.client = known.chain(absent).collect();
                self.answer = false;
            }
        }
        if std::mem::take(&mut self.unresolved) {
            for (name, holds) in &mut self.client {
                if let (Holds::Version { version, resource }, Some(current)) = (holds, table.get(name))
                    && *version == current.version
                {
                    *resource = Some(current.clone());
                }
            }
        }
        self.rejected.retain(|name, version| table.get(name).is_some_and(|current| current.version == *version));
    }

    /// The `version_info` of a SotW response: a hash over what the client will hold if it accepts `plan`.
    pub(super) fn version_after(&self, plan: &Plan) -> String {
        let sent: BTreeSet<&Arc<str>> = plan.upserts.iter().map(|r| &r.name).chain(&plan.removed).collect();
        let kept =
            self.client.iter().filter(|(name, _)| !sent.contains(name)).filter_map(|(name, holds)| match holds {
                Holds::Version { version, .. } => Some((name, version)),
                Holds::Nothing => None,
            });
        let upserts = plan.upserts.iter().filter(|r| !plan.stands_for_nothing(&r.name)).map(|r| (&r.name, &r.version));
        let mut all: Vec<_> = kept.chain(upserts).collect();
        all.sort_unstable();
        version_of_type(all.into_iter())
    }

    fn wanted<'t>(&'t self, table: &'t Table) -> Box<dyn Iterator<Item = &'t Arc<Resource>> + 't> {
        if self.wildcard {
            Box::new(table.values())
        } else {
            Box::new(self.names.iter().filter_map(|name| table.get(name)))
        }
    }

    fn choose(&self, resource: &Resource, gate: &Gate<'_>) -> Choice {
        if self.version_of(&resource.name) == Some(&resource.version) {
            Choice::Known
        } else if self.rejected.get(&resource.name) == Some(&resource.version) {
            Choice::Refused
        } else if !(gate.ready)(resource) {
            Choice::Wait
        } else {
            Choice::New
        }
    }

    /// What the client accepted last of `name`, to be sent in place of a version that it refuses or must not have yet.
    fn kept(&self, name: &str) -> Option<&Arc<Resource>> {
        match self.client.get(name) {
            Some(Holds::Version { resource, .. }) => resource.as_ref(),
            Some(Holds::Nothing) | None => None,
        }
    }

    fn plan_upserts(&self, table: &Table, gate: &Gate<'_>, plan: &mut Plan) {
        for resource in self.wanted(table) {
            let owed = self.owed.contains(&resource.name);
            match self.choose(resource, gate) {
                Choice::New => {
                    plan.changed.push(resource.clone());
                    plan.upserts.push(resource.clone());
                }
                Choice::Known if owed => plan.upserts.push(resource.clone()),
                Choice::Known => {}
                Choice::Wait => {
                    plan.waiting = true;
                    plan.whole = false;
                }
                Choice::Refused => {
                    plan.whole = false;
                    if owed {
                        plan.upserts.extend(self.kept(&resource.name).cloned());
                    }
                }
            }
        }
    }

    fn plan_removals(&self, table: &Table, gate: &Gate<'_>, plan: &mut Plan) {
        // Asked for and never there: said at once (25, 27). Nothing the client holds can depend on it.
        let asked = self.names.union(&self.owed).filter(|name| !table.contains_key(*name) && self.wants(name));
        for name in asked {
            match self.client.get(name) {
                None => plan.removed.push(name.clone()),
                Some(Holds::Nothing) if self.owed.contains(name) => plan.removed.push(name.clone()),
                Some(Holds::Nothing | Holds::Version { .. }) => {}
            }
        }
        for name in self.gone(table) {
            if (gate.removable)(name) {
                plan.removed.push(name.clone());
            } else {
                plan.whole = false;
            }
        }
    }

    /// Names that the client holds, still wants, and that are no more.
    fn gone<'t>(&'t self, table: &'t Table) -> impl Iterator<Item = &'t Arc<str>> {
        self.client
            .iter()
            .filter(|(name, holds)| {
                matches!(holds, Holds::Version { .. }) && !table.contains_key(*name) && self.wants(name)
            })
            .map(|(name, _)| name)
    }

    /// SotW clusters and listeners: always the full state, since what is missing is deleted (14, 15).
    fn plan_full(&self, table: &Table, gate: &Gate<'_>, plan: &mut Plan) {
        let mut dirty = self.answer;
        for resource in self.wanted(table) {
            match self.choose(resource, gate) {
                Choice::New => {
                    dirty = true;
                    plan.changed.push(resource.clone());
                    plan.upserts.push(resource.clone());
                }
                Choice::Known => {
                    dirty |= self.owed.contains(&resource.name);
                    plan.upserts.push(resource.clone());
                }
                choice @ (Choice::Wait | Choice::Refused) => {
                    plan.waiting |= matches!(choice, Choice::Wait);
                    plan.whole = false;
                    plan.upserts.extend(self.kept(&resource.name).cloned());
                }
            }
        }
        for name in self.gone(table) {
            // A gRPC client fails its calls at once if a cluster that it still asks for is missing (37).
            let asked_for = self.kind == Kind::Cluster && self.names.contains(name);
            let removable = (gate.removable)(name);
            match self.kept(name) {
                Some(kept) if asked_for || !removable => {
                    plan.upserts.push(kept.clone());
                    plan.whole &= asked_for;
                }
                Some(_) | None => {
                    dirty = true;
                    plan.removed.push(name.clone());
                }
            }
        }
        if dirty {
            plan.due = true;
            let absent = |name: &&Arc<str>| !table.contains_key(*name) && !self.client.contains_key(*name);
            plan.removed.extend(self.names.iter().filter(absent).cloned());
        } else {
            plan.upserts.clear();
        }
    }

    /// SotW cannot say "there is none" of a single resource. For a runtime layer an empty one means the same, and without an
    /// answer Envoy opens no listener for 15 s.
    fn plan_absent(&self, table: &Table, plan: &mut Plan) {
        if self.kind != Kind::Runtime {
            return;
        }
        for name in self.names.iter().filter(|name| !table.contains_key(*name)) {
            let told = matches!(self.client.get(name), Some(Holds::Nothing));
            if !told || self.owed.contains(name) {
                let layer = Runtime { name: name.as_ref().to_owned(), layer: Some(Struct::default()) };
                plan.upserts.push(Arc::new(Resource::encode(name, &layer, Vec::new())));
                plan.absent.insert(name.clone());
            }
        }
    }
}

/// 128 bits in hex over names and versions in the order of names: the same on every replica (13).
pub(super) fn version_of_type<'a>(all: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>) -> String {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for (name, version) in all {
        for text in [name, version] {
            hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
    }
    symbolon_kit::octets::hex(&hash.finish().as_ref()[..16])
}
