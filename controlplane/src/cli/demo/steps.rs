//! The ramp as the control plane told it, purely: which weights were in force from when to when, and whether a step was lost or done
//! twice.

use std::collections::BTreeMap;

use symbolon_proto::admin::{Evidence, HistoryItem, Rollout};

/// One change of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Percent of the fair share; 0: everything local.
    pub weight: u32,
    /// As wanted: local, then the peer.
    pub weights: Vec<u32>,
    pub decision: u64,
    /// The phase that it led to.
    pub to: String,
    /// Unix milliseconds of the decision.
    pub decided_at: u64,
    /// Unix milliseconds at which every proxy had acknowledged them.
    pub acked_at: Option<u64>,
    pub reason: String,
    pub evidence: Option<Evidence>,
}

/// Everything that was told.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    by_decision: BTreeMap<u64, Step>,
    /// Moments of acknowledgement by the last decision at that time; a restarted control plane may find them anew, the first counts.
    acked: BTreeMap<u64, u64>,
}

impl Steps {
    /// Takes in what the control plane says now. Returns what is new in its history, oldest first.
    pub fn hear(&mut self, rollout: &Rollout) -> Vec<HistoryItem> {
        let known = self.by_decision.last_key_value().map_or(0, |(decision, _)| *decision);
        let news: Vec<_> = rollout.history.iter().filter(|item| item.decision > known).cloned().collect();
        for item in &news {
            self.by_decision.insert(item.decision, Step::of(item));
        }
        if let Ok(at @ 1..) = u64::try_from(rollout.weights_acked_at_ms) {
            self.acked.entry(rollout.decisions).or_insert(at);
        }
        news
    }

    /// The changes of the weights, in order, each with the moment of its acknowledgement and that of the next change.
    pub fn changes(&self) -> Vec<(Step, Option<u64>)> {
        let mut changes: Vec<Step> = Vec::new();
        for step in self.by_decision.values() {
            if changes.last().map_or(step.weight > 0, |last| last.weights != step.weights) {
                changes.push(step.clone());
            }
        }
        let ends: Vec<_> = changes.iter().skip(1).map(|next| (next.decision, next.decided_at)).collect();
        let mut paired = Vec::new();
        for (index, mut step) in changes.into_iter().enumerate() {
            let end = ends.get(index);
            let until = end.map_or(u64::MAX, |(decision, _)| *decision);
            step.acked_at = self.acked.range(step.decision..until).map(|(_, at)| *at).min();
            paired.push((step, end.map(|(_, at)| *at)));
        }
        paired
    }

    /// When the share of the weights set by `decision` is no longer to be counted: the next change, or that the ramp is done.
    pub fn counted_until(&self, decision: u64) -> Option<u64> {
        let own = self.by_decision.get(&decision)?;
        let mut later = self.by_decision.range(decision + 1..).map(|(_, step)| step);
        later.find(|step| step.weights != own.weights || step.to == "Converged").map(|step| step.decided_at)
    }

    /// Of the ramps so far, how many of the `wanted` percentages were left out, and how many came twice. A ramp ends with weight 0.
    pub fn lost_and_doubled(&self, wanted: &[u32]) -> (usize, usize) {
        let changes = self.changes();
        let ramps = changes.split(|(step, _)| step.weight == 0).filter(|ramp| !ramp.is_empty());
        ramps.fold((0, 0), |(lost, doubled), ramp| {
            let seen: Vec<u32> = ramp.iter().map(|(step, _)| step.weight).collect();
            let count = |weight: &u32| seen.iter().filter(|one| *one == weight).count();
            let highest = seen.iter().max().copied().unwrap_or(0);
            let due = wanted.iter().filter(|weight| **weight <= highest);
            (
                lost + due.filter(|weight| count(weight) == 0).count(),
                doubled + wanted.iter().map(|weight| count(weight).saturating_sub(1)).sum::<usize>(),
            )
        })
    }
}

impl Step {
    fn of(item: &HistoryItem) -> Self {
        Self {
            weight: item.step_weight,
            weights: item.weights.clone(),
            decision: item.decision,
            to: item.to.clone(),
            decided_at: u64::try_from(item.at_ms).unwrap_or(0),
            acked_at: None,
            reason: item.reason.clone(),
            evidence: item.evidence.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(decision: u64, step_weight: u32, remote: u32) -> HistoryItem {
        let at_ms = i64::try_from(decision).unwrap() * 1000;
        HistoryItem { decision, at_ms, step_weight, weights: vec![10_000 - remote, remote], ..Default::default() }
    }

    fn told(history: &[HistoryItem], acked_at: i64) -> Rollout {
        let decisions = history.last().map_or(0, |item| item.decision);
        Rollout { history: history.to_vec(), decisions, weights_acked_at_ms: acked_at, ..Default::default() }
    }

    #[test]
    fn a_step_lasts_from_its_acknowledgement_to_the_next_decision() {
        let history = [item(1, 0, 0), item(2, 5, 250), item(3, 25, 1250), item(4, 25, 1250), item(5, 100, 5000)];
        let mut steps = Steps::default();
        steps.hear(&told(&history[..2], 0));
        assert_eq!(steps.hear(&told(&history[..2], 2100)), []);
        steps.hear(&told(&history[..3], 3100));
        steps.hear(&told(&history[..4], 3900)); // a restart found the acknowledgement anew: the first counts
        assert_eq!(steps.hear(&told(&history, 0)).len(), 1);
        let spans: Vec<_> = steps.changes().iter().map(|(s, end)| (s.weight, s.acked_at, *end)).collect();
        assert_eq!(spans, [(5, Some(2100), Some(3000)), (25, Some(3100), Some(5000)), (100, None, None)]);
    }

    #[test]
    fn lost_and_doubled_steps_are_counted_per_ramp() {
        let check = |weights: &[u32], want: (usize, usize)| {
            let history: Vec<_> = weights
                .iter()
                .enumerate()
                .map(|(i, w)| item(i as u64 + 1, *w, w * 50 + u32::try_from(i).unwrap()))
                .collect();
            let mut steps = Steps::default();
            steps.hear(&told(&history, 0));
            assert_eq!(steps.lost_and_doubled(&[5, 25, 100]), want, "{weights:?}");
        };
        check(&[5, 25, 100, 0, 5, 25, 100], (0, 0));
        check(&[5, 100], (1, 0));
        check(&[5, 25, 5, 25, 100], (0, 2));
        check(&[5, 0, 5, 25], (0, 0));
    }
}
