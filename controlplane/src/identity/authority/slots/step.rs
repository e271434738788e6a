//! The transition itself: first the event, then whatever the schedule finds due.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Context, Effect, Event, Id, Refused, Slot, Slots, State};

/// The slots after `event`, and what is to be done once they are durable.
///
/// # Errors
/// Why an operator's word is not followed. Other events are never refused.
pub fn step<M: Clone>(
    slots: &Slots<M>,
    event: Event<M>,
    context: Context<'_>,
) -> Result<(Slots<M>, Vec<Effect>), Refused> {
    let mut next = Next { slots: slots.clone(), effects: Vec::new(), context };
    if next.apply(event)? {
        next.follow_schedule();
    }
    next.finish();
    Ok((next.slots, next.effects))
}

struct Next<'a, M> {
    slots: Slots<M>,
    effects: Vec<Effect>,
    context: Context<'a>,
}

impl<M: Clone> Next<'_, M> {
    /// Whether the schedule may act on it.
    fn apply(&mut self, event: Event<M>) -> Result<bool, Refused> {
        match event {
            Event::Started { lost } => self.started(&lost),
            Event::Tick => {}
            Event::Made(slot) => self.made(slot),
            Event::NotMade => {
                // It may exist all the same. Nothing is tried again here: the next tick comes later.
                self.slots.doomed.extend(self.slots.making.take());
                return Ok(false);
            }
            Event::Published => self.published(),
            Event::Destroyed(name) => {
                self.slots.doomed.remove(&name);
                return Ok(false);
            }
            Event::ClockStepped { forward, by } => self.clock_stepped(forward, by),
            Event::Prepare { force } => self.prepare(force)?,
            Event::Activate { id, force } => {
                self.may_sign(&id, force)?;
                self.activate(&id);
            }
            Event::Taint { id, force } => self.taint(&[id], force)?,
            Event::Revoke { id, force } => self.revoke(&[id], force)?,
            Event::TaintRoot { root, force } => {
                let living = self.below(&root, |state| !matches!(state, State::Tainted { .. } | State::Revoked))?;
                self.taint(&living, force)?;
            }
            Event::RevokeRoot { root, force } => {
                let living = self.below(&root, |state| state != State::Revoked)?;
                self.revoke(&living, force)?;
            }
        }
        Ok(true)
    }

    /// What a crash may have cut off is done again.
    fn started(&mut self, lost: &BTreeSet<Arc<str>>) {
        self.slots.doomed.extend(self.slots.making.take());
        self.slots.unpublished = true;
        for slot in &mut self.slots.slots {
            if !slot.key.as_ref().is_some_and(|key| lost.contains(key)) {
                continue;
            }
            slot.key = None;
            slot.state = match slot.state {
                State::Active => State::Old,
                State::Prepared | State::Published { .. } => State::Revoked,
                other => other,
            };
        }
        self.hold(); // who knows what the clock did meanwhile
        self.effects.extend(self.slots.active().map(|active| Effect::Sign(active.id.clone())));
    }

    fn made(&mut self, slot: Slot<M>) {
        self.slots.making = None;
        self.slots.slots.push(Slot { state: State::Prepared, ..slot });
        self.slots.unpublished = true;
    }

    fn published(&mut self) {
        self.slots.unpublished = false;
        for slot in self.slots.slots.iter_mut().filter(|slot| slot.state == State::Prepared) {
            slot.state = State::Published { at: self.context.now };
        }
    }

    /// Waiting times are lengths, not moments: they move with the clock. And nothing is forgotten until it has proved itself.
    fn clock_stepped(&mut self, forward: bool, by: Duration) {
        let moved = |at: SystemTime| {
            let moved = if forward { at.checked_add(by) } else { at.checked_sub(by) };
            moved.unwrap_or(at)
        };
        for slot in &mut self.slots.slots {
            match &mut slot.state {
                State::Published { at } | State::Tainted { at } => *at = moved(*at),
                _ => {}
            }
        }
        self.hold();
    }

    fn hold(&mut self) {
        self.slots.hold = Some(self.context.now + self.context.policy.hold());
    }

    fn prepare(&mut self, force: bool) -> Result<(), Refused> {
        if self.slots.making.is_some() {
            return Err(Refused::Busy);
        }
        if let Some(pending) = self.slots.pending() {
            let outdated = pending.root.as_ref() != self.context.root;
            if !force && !outdated {
                return Err(Refused::Pending(pending.id.clone()));
            }
            self.discard_pending(|_| true);
        }
        self.make();
        Ok(())
    }

    /// Whether the operator may let this one sign.
    fn may_sign(&self, id: &Id, force: bool) -> Result<(), Refused> {
        let slot = self.slots.find(id)?;
        match slot.state {
            State::Published { at } if !force => self.waited(at, |wait| Refused::TooSoon { id: id.clone(), wait })?,
            State::Published { .. } | State::Old => {}
            // Not even by force does anything sign before it is published (I8).
            State::Prepared | State::Active | State::Tainted { .. } | State::Revoked => {
                return Err(Refused::State { id: id.clone(), state: slot.state.word(), step: "activated" });
            }
        }
        if !slot.life.holds(self.context.now) {
            return Err(Refused::NotValid { id: id.clone() });
        }
        slot.key.as_ref().map(|_| ()).ok_or_else(|| Refused::NoKey(id.clone()))
    }

    /// Whether others have had the time to hear of what happened at `since`.
    fn waited(&self, since: SystemTime, refused: impl FnOnce(Duration) -> Refused) -> Result<(), Refused> {
        let over = since + self.context.policy.propagation;
        match over.duration_since(self.context.now) {
            Ok(wait) if !wait.is_zero() => Err(refused(wait)),
            _ => Ok(()),
        }
    }

    fn taint(&mut self, ids: &[Id], force: bool) -> Result<(), Refused> {
        for id in ids {
            let slot = self.slots.find(id)?;
            if let State::Tainted { .. } | State::Revoked = slot.state {
                return Err(Refused::State { id: id.clone(), state: slot.state.word(), step: "tainted" });
            }
        }
        if let Some(active) = self.slots.active().map(|slot| slot.id.clone()).filter(|active| ids.contains(active)) {
            let published = |slot: &&Slot<M>| matches!(slot.state, State::Published { .. }) && !ids.contains(&slot.id);
            let successor = self.slots.slots.iter().find(published).map(|slot| slot.id.clone());
            let successor = successor.ok_or(Refused::OnlyOne(active))?;
            self.may_sign(&successor, force)?;
            self.activate(&successor);
        }
        for id in ids {
            self.set(id, State::Tainted { at: self.context.now });
        }
        Ok(())
    }

    fn revoke(&mut self, ids: &[Id], force: bool) -> Result<(), Refused> {
        for id in ids {
            let slot = self.slots.find(id)?;
            match slot.state {
                State::Active | State::Revoked => {
                    return Err(Refused::State { id: id.clone(), state: slot.state.word(), step: "revoked" });
                }
                _ if force => {}
                State::Old => return Err(Refused::NotTainted(id.clone())),
                State::Tainted { at } => self.waited(at, |wait| Refused::StillUsed { id: id.clone(), wait })?,
                State::Prepared | State::Published { .. } => {} // nothing depends on what never signed
            }
        }
        for id in ids {
            self.set(id, State::Revoked);
        }
        self.slots.unpublished = true;
        Ok(())
    }

    /// Everything below an upstream root that is in such a state.
    fn below(&self, root: &Id, fits: impl Fn(State) -> bool) -> Result<Vec<Id>, Refused> {
        let of_root = |slot: &&Slot<M>| slot.root.as_ref() == Some(root) && fits(slot.state);
        let ids: Vec<_> = self.slots.slots.iter().filter(of_root).map(|slot| slot.id.clone()).collect();
        if ids.is_empty() { Err(Refused::Unknown(root.to_string())) } else { Ok(ids) }
    }

    fn activate(&mut self, id: &Id) {
        for slot in &mut self.slots.slots {
            if slot.state == State::Active {
                slot.state = State::Old;
            }
            if slot.id == *id {
                slot.state = State::Active;
            }
        }
        self.effects.retain(|effect| !matches!(effect, Effect::Sign(_)));
        self.effects.push(Effect::Sign(id.clone()));
    }

    /// A key that never signs again is destroyed: nobody can steal it any more.
    fn set(&mut self, id: &Id, state: State) {
        for slot in self.slots.slots.iter_mut().filter(|slot| slot.id == *id) {
            slot.state = state;
            self.slots.doomed.extend(slot.key.take());
        }
    }

    fn make(&mut self) {
        let name: Arc<str> = self.context.fresh.into();
        self.slots.making = Some(name.clone());
        self.effects.push(Effect::Make(name));
    }

    fn follow_schedule(&mut self) {
        self.forget();
        let (now, policy) = (self.context.now, self.context.policy);
        self.discard_pending(|pending| pending.life.not_after <= now); // it ended before it ever signed
        let Some(active) = self.slots.active().cloned().filter(|active| now < active.life.not_after) else {
            return self.let_something_sign();
        };
        if now < active.life.not_before {
            // Made while the clock was ahead. One that is valid now goes on in its place, if there is one.
            if let Some(valid) = self.best() {
                self.activate(&valid);
            }
            return;
        }
        let outdated = active.root.as_ref() != self.context.root;
        match self.slots.pending().map(|pending| (pending.id.clone(), pending.state)) {
            None if self.slots.making.is_none() => {
                // Below an upstream authority that ends no later, another one would change nothing.
                let longer = self.context.root_end.is_none_or(|end| end > active.life.not_after);
                if outdated || (longer && now >= policy.prepare_at(active.life)) {
                    self.make();
                }
            }
            Some((id, State::Published { .. })) => {
                let due = outdated || now >= policy.activate_at(active.life);
                if due && self.may_sign(&id, false).is_ok() {
                    self.activate(&id);
                }
            }
            _ => {}
        }
    }

    /// Nothing signs, so nobody is served by waiting.
    fn let_something_sign(&mut self) {
        if let Some(valid) = self.best() {
            self.activate(&valid);
        } else if self.slots.making.is_none() && !self.slots.slots.iter().any(|slot| slot.state == State::Prepared) {
            self.discard_pending(|_| true); // made while the clock was ahead
            self.make();
        }
    }

    /// What never signed is not needed.
    fn discard_pending(&mut self, if_so: impl Fn(&Slot<M>) -> bool) {
        if let Some(id) = self.slots.pending().filter(|pending| if_so(pending)).map(|pending| pending.id.clone()) {
            self.set(&id, State::Revoked);
            self.slots.unpublished = true;
        }
    }

    /// The one that may sign at once and lives longest.
    fn best(&self) -> Option<Id> {
        let may = |slot: &&Slot<M>| {
            matches!(slot.state, State::Published { .. } | State::Old)
                && slot.key.is_some()
                && slot.life.holds(self.context.now)
        };
        self.slots.slots.iter().filter(may).max_by_key(|slot| slot.life.not_after).map(|slot| slot.id.clone())
    }

    fn forget(&mut self) {
        let (now, policy) = (self.context.now, self.context.policy);
        if self.slots.hold.is_some_and(|hold| now < hold && hold <= now + policy.hold()) {
            return;
        }
        self.slots.hold = None;
        let gone = |slot: &Slot<M>| slot.state != State::Active && policy.forget_at(slot.life) <= now;
        self.slots.unpublished |= self.slots.slots.iter().any(|slot| gone(slot) && slot.state != State::Revoked);
        let keys = self.slots.slots.iter().filter(|slot| gone(slot)).filter_map(|slot| slot.key.clone());
        self.slots.doomed.extend(keys);
        self.slots.slots.retain(|slot| !gone(slot));
    }

    fn finish(&mut self) {
        if self.slots.unpublished {
            self.effects.push(Effect::Publish);
        }
        self.effects.extend(self.slots.doomed.iter().cloned().map(Effect::Destroy));
    }
}
