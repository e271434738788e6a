//! What tests look at, and how they take a step without the task.

use super::*;

impl Authority {
    pub(in crate::identity) fn expires(&self) -> Gauge {
        self.meters.expires.clone()
    }

    /// The X.509 authority that signs.
    pub(in crate::identity) fn active_x509(&self) -> Option<String> {
        Some(self.lanes.get(&Kind::X509)?.slots.active()?.id.to_string())
    }

    pub(in crate::identity) fn key_names(&self) -> BTreeSet<String> {
        let slots = self.lanes.values().flat_map(|lane| &lane.slots.slots);
        slots.filter_map(|slot| slot.key.as_ref().map(ToString::to_string)).collect()
    }

    pub(in crate::identity) fn revoked_roots(&self) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        let slots = self.lanes.values().flat_map(|lane| &lane.slots.slots);
        let revoked = slots.filter(|slot| slot.state == State::Revoked);
        let roots = revoked.filter_map(|slot| match &slot.material {
            Material::X509 { roots, .. } => Some(roots.clone()),
            Material::Token { .. } => None,
        });
        roots.flatten().collect()
    }

    /// Takes an operator's step about X.509; `id` may be a state.
    pub(in crate::identity) async fn by_hand(&mut self, step: &str, id: &str, force: bool) -> Result<(), String> {
        let steps = [Step::Prepare, Step::Activate, Step::Taint, Step::Revoke];
        let step = steps.into_iter().find(|one| one.word() == step).ok_or("no such step")?;
        let slots = &self.lanes.get(&Kind::X509).ok_or("no X.509")?.slots.slots;
        let by_state = slots.iter().find(|slot| slot.state.word() == id).map(|slot| slot.id.to_string());
        let order = Order { word: Word::X509, step, id: by_state.unwrap_or_else(|| id.to_owned()), force };
        self.obey(&order).await.map_err(|stop| match stop {
            Stop::Refused(refused) => refused.label().to_owned(),
            Stop::Failed(error) => error.to_string(),
        })
    }
}
