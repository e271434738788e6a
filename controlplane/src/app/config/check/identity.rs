//! Lifetimes, the schedule of authorities, and where their keys are.

use std::time::{Duration, SystemTime};

use super::super::file::{IdentityFile, KeyManagerFile};
use super::super::{Code, Lifetimes};
use super::Checker;
use crate::identity::authority::Settings;
use crate::identity::schedule::Life;
use crate::identity::{keys, upstream};

/// Below this, an SVID would be renewed before its proxies have it.
const SHORTEST_SVID: Duration = Duration::from_secs(10);
/// Below this, a token's authority is gone before anybody verifies by it.
const SHORTEST_AUTHORITY: Duration = Duration::from_mins(1);
/// What all consumers of a bundle make use of: SPIRE asks no more often than for a minute's hint, and none should learn of a key later
/// than by the default of SPIFFE_Trust_Domain_and_Bundle.md §6.1.
const HINTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(300);

impl Checker {
    pub(super) fn lifetimes(&mut self, file: &IdentityFile) -> Lifetimes {
        if file.svid_ttl < SHORTEST_SVID {
            self.find(Code::Lifetime, "identity.svidTtl", "", "must be at least 10s");
        }
        let hint = file.refresh_hint;
        if !HINTS.contains(&hint) || hint.subsec_nanos() != 0 || hint > file.ca_ttl / 2 {
            let message = "must be whole seconds from 1m to 5m, and at most half of identity.caTtl";
            self.find(Code::Lifetime, "identity.refreshHint", "", message);
        }
        if file.node_ttl < SHORTEST_SVID {
            self.find(Code::Lifetime, "identity.nodeTtl", "", "must be at least 10s");
        }
        Lifetimes {
            ca_ttl: file.ca_ttl,
            svid_ttl: file.svid_ttl,
            node_ttl: file.node_ttl,
            refresh_hint: file.refresh_hint,
        }
    }

    pub(super) fn authority(&mut self, file: &IdentityFile) -> Settings {
        let settings = Settings {
            prepare_before: file.authority.prepare_before,
            activate_before: file.authority.activate_before,
            propagation: file.authority.propagation,
            jwt_ttl: file.authority.jwt_ttl,
            wit: file.incubating.wit,
            keys: self.key_manager(&file.key_manager),
            upstream: file.upstream.as_ref().map(|of| upstream::Config {
                certificate: of.certificate.clone(),
                key: of.key.clone(),
                roots: of.roots.clone(),
            }),
            replace_lost_keys: false,
        };
        self.schedule(file, &settings);
        settings
    }

    fn schedule(&mut self, file: &IdentityFile, settings: &Settings) {
        let policy = settings.policy(file.ca_ttl, file.refresh_hint);
        if file.svid_ttl > policy.longest_svid() {
            let message = "must be at most identity.authority.activateBefore, which is a sixth of identity.caTtl unless it \
                           is set: then an authority hands over, and no SVID outlives its issuer";
            self.find(Code::Lifetime, "identity.svidTtl", "", message);
        }
        if settings.prepare_before.is_some_and(|before| before > file.ca_ttl * 9 / 10) {
            let message = "must be at most nine tenths of identity.caTtl";
            self.find(Code::Lifetime, "identity.authority.prepareBefore", "", message);
        }
        if settings.activate_before.is_some_and(|before| before > file.ca_ttl / 2) {
            let message = "must be at most half of identity.caTtl";
            self.find(Code::Lifetime, "identity.authority.activateBefore", "", message);
        }
        let epoch = SystemTime::UNIX_EPOCH;
        let life = Life { not_before: epoch, not_after: epoch + file.ca_ttl };
        let waits = policy.activate_at(life).duration_since(policy.prepare_at(life)).unwrap_or_default();
        if policy.propagation > waits {
            let message = "must fit between the preparation of an authority and its activation";
            self.find(Code::Lifetime, "identity.authority.propagation", "", message);
        }
        if settings.jwt_ttl.is_some_and(|ttl| ttl < SHORTEST_AUTHORITY) {
            self.find(Code::Lifetime, "identity.authority.jwtTtl", "", "must be at least 1m");
        }
    }

    fn key_manager(&mut self, file: &KeyManagerFile) -> keys::Place {
        let place = match file.kind.as_str() {
            "disk" => keys::Place::Disk,
            "memory" => keys::Place::Memory,
            "pkcs11" => match (&file.module, &file.token, &file.pin_file) {
                (Some(module), Some(token), Some(pin_file)) => keys::Place::Pkcs11(keys::pkcs11::Config {
                    module: module.clone(),
                    token: token.clone(),
                    pin_file: pin_file.clone(),
                    deadline: file.deadline,
                }),
                _ => {
                    let message = "pkcs11 needs module, token and pinFile";
                    self.find(Code::KeyManager, "identity.keyManager", "", message);
                    keys::Place::Disk
                }
            },
            other => {
                let message = format!("{other:?} is none of disk, memory, pkcs11");
                self.find(Code::KeyManager, "identity.keyManager.kind", other, message);
                keys::Place::Disk
            }
        };
        let of_token = file.module.is_some() || file.token.is_some() || file.pin_file.is_some();
        if of_token && !matches!(place, keys::Place::Pkcs11(_)) && file.kind != "pkcs11" {
            let message = "module, token and pinFile are for kind: pkcs11";
            self.find(Code::KeyManager, "identity.keyManager", "", message);
        }
        if file.deadline < Duration::from_millis(10) || file.deadline > Duration::from_mins(1) {
            self.find(Code::KeyManager, "identity.keyManager.deadline", "", "must be from 10ms to 1m");
        }
        place
    }
}
