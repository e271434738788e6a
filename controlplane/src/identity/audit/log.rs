//! The log as its one writer holds it: where it ends, how it goes on after a crash, and what a full disk does. Everything here blocks.

use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use symbolon_kit::clock::{Clock, unix_ms};
use symbolon_kit::octets;
use tracing::warn;

use super::Error;
use super::chain::{self, GENESIS, Head, Line, Problem};
use super::folder::{self, Entry, Segment, Volume};
use super::record::{Kind, Record};

/// How much a file may hold, and how long it is written to, before the next is begun.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
const MAX_AGE: Duration = Duration::from_hours(24);

/// The end of the log, and the file that it lies in.
pub(super) struct Log {
    folder: PathBuf,
    volume: Arc<dyn Volume>,
    clock: Clock,
    head: Head,
    file: Option<Open>,
}

struct Open {
    first: u64,
    segment: Box<dyn Segment>,
    /// What is durable of it; whatever lies behind was never acknowledged.
    bytes: u64,
    /// Whether something may lie behind.
    torn: bool,
    since: SystemTime,
}

/// What is durable: readers go no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    pub head: Head,
    /// The newest file, by the number of its first record, and how much of it counts.
    pub first: u64,
    pub bytes: u64,
}

/// What a start has found.
struct Found {
    head: Head,
    /// The file to go on in.
    file: Option<(Entry, u64)>,
    /// Bytes that were taken away from its end.
    torn: Option<(u64, String)>,
    damage: Option<Problem>,
}

impl Log {
    /// Looks at the end of the log that is there, and goes on where it ends. `known` is the head as the store knows it: it may be
    /// older than the log, never newer. What was wrong is recorded; whether anything was is said.
    ///
    /// # Errors
    /// If nothing can be read or written.
    pub(super) fn open(
        folder: &Path,
        volume: Arc<dyn Volume>,
        clock: Clock,
        known: Option<Head>,
    ) -> Result<(Self, Durable, Option<Problem>), Error> {
        let found = look(folder, known)?;
        let mut log = Self { folder: folder.to_owned(), volume, clock, head: found.head, file: None };
        if let Some((entry, bytes)) = &found.file {
            let mut segment = log.volume.open(&entry.path)?;
            if found.torn.is_some() {
                segment.cut(*bytes)?;
            }
            let since = log.clock.now();
            log.file = Some(Open { first: entry.first, segment, bytes: *bytes, torn: false, since });
        }
        let mut records = vec![Record::new(Kind::LogStarted).with("version", env!("CARGO_PKG_VERSION"))];
        if let Some((bytes, digest)) = found.torn {
            warn!(
                bytes,
                "the audit log ended in the middle of a line, as after a crash; the rest of it was taken away"
            );
            records.push(Record::new(Kind::LogRepaired).with("bytes", bytes).with("sha256", digest));
        }
        if let Some(problem) = &found.damage {
            records.push(Record::new(Kind::LogDamaged).with("problem", problem.to_string()));
        }
        let durable = log.append(&records)?;
        Ok((log, durable, found.damage))
    }

    /// Appends the records; all are durable when it returns, or none is there.
    ///
    /// # Errors
    /// If the disk refuses. What was half written is taken away before anything else is written.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<Durable, Error> {
        let at = stamp(self.clock.now());
        let (mut head, mut lines) = (self.head, Vec::with_capacity(400 * (records.len() + 1)));
        if self.is_due() {
            self.file = None;
        }
        if self.file.is_none() {
            let segment = self.volume.open(&folder::path(&self.folder, head.count + 1))?;
            self.file = Some(Open { first: head.count + 1, segment, bytes: 0, torn: false, since: self.clock.now() });
        }
        let file = self.file.as_mut().expect("it was just opened");
        if file.torn {
            file.segment.cut(file.bytes)?;
            file.torn = false;
        }
        if file.bytes == 0 {
            let first = Record::new(Kind::LogSegment).with("previous", octets::hex(&head.hash));
            head.seal(&at, &first, &mut lines);
        }
        for record in records {
            head.seal(&at, record, &mut lines);
        }
        file.torn = true; // until all of it is durable
        file.segment.append(&lines)?;
        file.segment.sync()?;
        file.torn = false;
        file.bytes += lines.len() as u64;
        self.head = head;
        Ok(Durable { head, first: file.first, bytes: file.bytes })
    }

    fn is_due(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let old = self.clock.now().duration_since(file.since).is_ok_and(|age| age >= MAX_AGE);
        !file.torn && file.bytes > 0 && (old || file.bytes >= MAX_BYTES)
    }
}

fn stamp(at: SystemTime) -> String {
    let at = jiff::Timestamp::from_millisecond(unix_ms(at)).unwrap_or(jiff::Timestamp::MAX);
    format!("{at:.3}")
}

fn look(folder: &Path, known: Option<Head>) -> Result<Found, Error> {
    let mut files = folder::entries(folder)?;
    while let Some(entry) = files.pop() {
        let Some(found) = look_at(&entry, known)? else {
            // It was just begun, and nothing in it was ever durable.
            fs::rename(&entry.path, entry.path.with_extension("torn"))?;
            continue;
        };
        return Ok(found);
    }
    let damage = known.and_then(|known| chain::holds(&known, &GENESIS, None).err());
    Ok(Found { head: known.unwrap_or(GENESIS), file: None, torn: None, damage })
}

/// Where the log ends, if this is its last file; `None` if it has no whole line.
fn look_at(entry: &Entry, known: Option<Head>) -> Result<Option<Found>, Error> {
    let bytes = fs::read(&entry.path)?;
    let whole = |line: &&[u8]| line.ends_with(b"\n");
    let lines = || bytes.split_inclusive(|byte| *byte == b'\n').filter(whole);
    let parsed = || lines().filter_map(|line| Line::parse(&line[..line.len() - 1]));
    let Some(newest) = parsed().next_back() else { return Ok(None) };

    let before = lines().next().and_then(previous).unwrap_or(GENESIS.hash);
    let (mut head, mut good, mut passed) = (Head { count: entry.first - 1, hash: before }, 0, None);
    let mut damage = chain::follow(BufReader::new(&*bytes), &mut head, |head| {
        good = head.count;
        if known.is_some_and(|known| known.count == head.count) {
            passed = Some(head.hash);
        }
    })
    .err();
    let good_bytes = lines().take(usize::try_from(good.saturating_sub(entry.first - 1)).unwrap_or(0));
    let good_bytes: usize = good_bytes.map(<[u8]>::len).sum();
    // A crash leaves half a line, or a hole. No whole line of ours follows either.
    let rest = &bytes[good_bytes..];
    let mut torn = None;
    if damage.is_some() && newest.seq <= head.count {
        torn = Some((rest.len() as u64, octets::hex(&octets::sha256(rest))));
        damage = None;
    }
    if let Some(known) = known {
        damage = damage.or_else(|| chain::holds(&known, &head, passed).err());
    }
    if damage.is_none() {
        return Ok(Some(Found { head, file: Some((entry.clone(), good_bytes as u64)), torn, damage }));
    }
    // What is there stays as it is. The log goes on in a file of its own, behind all that is known.
    let newest = Head { count: newest.seq.max(head.count), hash: newest.hash };
    let head = known.filter(|known| known.count >= newest.count).unwrap_or(newest);
    Ok(Some(Found { head, file: None, torn: None, damage }))
}

/// The hash that the first line of a file says to follow.
fn previous(line: &[u8]) -> Option<chain::Hash> {
    #[derive(serde::Deserialize)]
    struct First {
        previous: String,
    }
    let first: First = serde_json::from_slice(line).ok()?;
    chain::unhex(first.previous.as_bytes())
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Disk(error.to_string()),
        }
    }
}
