//! How often one source may try to attest (bad input 146). Each address has a purse that fills with time; an attempt costs a little,
//! a refusal much: a fleet that joins behind one address is not slowed, and whoever guesses tokens gets one guess a second. The
//! table is bounded; what does not fit shares one purse.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use symbolon_kit::purse::{Flow, Purse};
use tokio::time::Instant;

const FLOW: Flow = Flow { full: 2_000.0, per_second: 100.0 };
const ATTEMPT: f64 = 1.0;
const FAILURE: f64 = 100.0;
/// Addresses that are remembered.
const MAX_SOURCES: usize = 16_384;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::api::node) struct Attempts(Arc<Mutex<Purses>>); // a std mutex: nothing awaits while it is held

#[derive(Debug, Default)]
struct Purses {
    of: HashMap<IpAddr, Purse>,
    /// Of all that `of` has no room for.
    shared: Option<Purse>,
}

impl Attempts {
    /// Whether an attempt may be made now.
    ///
    /// # Errors
    /// How long to wait.
    pub(in crate::api::node) fn ask(&self, source: Option<IpAddr>) -> Result<(), Duration> {
        self.with(source, |purse, now| FLOW.take(purse, ATTEMPT, now))
    }

    /// The attempt was refused.
    pub(in crate::api::node) fn failed(&self, source: Option<IpAddr>) {
        // Into debt at most by what one may have in flight.
        self.with(source, |purse, now| FLOW.charge(purse, FAILURE, now));
    }

    fn with<T>(&self, source: Option<IpAddr>, act: impl FnOnce(&mut Purse, Instant) -> T) -> T {
        let (now, source) = (Instant::now(), source.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network));
        let mut purses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !purses.of.contains_key(&source) && purses.of.len() >= MAX_SOURCES {
            purses.of.retain(|_, purse| !FLOW.is_full(*purse, now));
        }
        let purse = if purses.of.contains_key(&source) || purses.of.len() < MAX_SOURCES {
            purses.of.entry(source).or_insert_with(|| FLOW.purse(now))
        } else {
            purses.shared.get_or_insert_with(|| FLOW.purse(now))
        };
        act(purse, now)
    }
}

/// Whoever has one IPv6 address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn bad_146_who_guesses_gets_one_guess_a_second() {
        let attempts = Attempts::default();
        let mut guesses = 0;
        while attempts.ask(address(1)).is_ok() {
            attempts.failed(address(1));
            guesses += 1;
        }
        assert_eq!(guesses, 20);
        assert!(attempts.ask(address(1)).unwrap_err() <= Duration::from_secs(1), "and is told how long to wait");
        assert!(attempts.ask(address(2)).is_ok(), "others are not concerned");
        let mut more = 0;
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            while attempts.ask(address(1)).is_ok() {
                attempts.failed(address(1));
                more += 1;
            }
        }
        assert!((55..=61).contains(&more), "{more}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_behind_one_address_joins() {
        let attempts = Attempts::default();
        assert_eq!((0..2_000).filter(|_| attempts.ask(address(1)).is_ok()).count(), 2_000);
        assert!(attempts.ask(address(1)).is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..2_000).filter(|_| attempts.ask(address(1)).is_ok()).count(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn i_9_the_table_is_bounded_and_a_network_is_one_source() {
        let attempts = Attempts::default();
        for number in 0..2 * u32::try_from(MAX_SOURCES).unwrap() {
            let _ = attempts.ask(Some(IpAddr::V4(number.into())));
        }
        let remembered = || attempts.0.lock().unwrap().of.len();
        assert_eq!(remembered(), MAX_SOURCES);
        tokio::time::advance(Duration::from_secs(60)).await;
        let one = |host: u16| Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host)));
        assert_eq!((0..1000).filter(|host| attempts.ask(one(*host)).is_ok()).count(), 1000);
        assert_eq!(remembered(), 1, "those that have filled up are forgotten");
    }
}
