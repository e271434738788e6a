//! The log on disk: a folder of files, each named after the number of its first record. No file is ever changed but at its end, and
//! none is deleted: how long they are kept is the operator's to decide. Everything here blocks.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::chain::{self, GENESIS, Hash, Head, Line, Problem};

const ENDING: &str = ".jsonl";
/// What the end of a file is searched in, step by step.
const CHUNK: u64 = 64 * 1024;

/// Where lines go. Real files are [`Files`]; tests bring some that fail.
pub trait Volume: Send + Sync + fmt::Debug {
    /// Opens a file to append to; makes it, durably, if it is not there.
    ///
    /// # Errors
    /// If it cannot.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Segment>>;
}

/// An open file of the log.
pub trait Segment: Send {
    /// # Errors
    /// If not all of it could be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was appended is durable.
    ///
    /// # Errors
    /// If it may not be.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to its first `length` bytes, durably.
    ///
    /// # Errors
    /// If it may not be.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// Files of this machine, for their owner only.
#[derive(Clone, Copy, Debug)]
pub struct Files;

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The number of its first record.
    pub first: u64,
    pub path: PathBuf,
}

impl Volume for Files {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Segment>> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let new = !path.exists();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        if new {
            File::open(folder)?.sync_all()?;
        }
        Ok(Box::new(file))
    }
}

impl Segment for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.sync_all()
    }
}

/// The path of the file whose first record is `first`.
pub fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}{ENDING}"))
}

/// All files of the log, in order. A folder that is not there has none.
///
/// # Errors
/// If it cannot be read.
pub fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut entries = Vec::new();
    for file in listed {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ENDING));
        if let Some(first) = name.filter(|name| name.len() == 20).and_then(|name| name.parse().ok()) {
            entries.push(Entry { first, path });
        }
    }
    entries.sort();
    Ok(entries)
}

/// What a whole log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The last record that is right, with all before it.
    pub head: Head,
    /// What stands behind it.
    pub problem: Option<Problem>,
}

/// Reads the whole log, and checks that it holds what is `known` of it. While a control plane writes to it, `durable` bounds what is
/// read of one file, by the number of its first record: what stands behind is being written.
///
/// # Errors
/// If the folder cannot be listed; a file that cannot be read is a [`Problem`].
pub fn verify(folder: &Path, known: Option<&Head>, durable: Option<(u64, u64)>) -> io::Result<Verified> {
    let (mut head, mut passed) = (GENESIS, None);
    for entry in entries(folder)? {
        if durable.is_some_and(|(last, _)| entry.first > last) {
            break; // it was begun since
        }
        let bytes = durable.filter(|(last, _)| entry.first == *last).map_or(u64::MAX, |(_, bytes)| bytes);
        let followed = match File::open(&entry.path) {
            Ok(file) => chain::follow(BufReader::with_capacity(1 << 16, file.take(bytes)), &mut head, |head| {
                if known.is_some_and(|known| known.count == head.count) {
                    passed = Some(head.hash);
                }
            }),
            Err(error) => Err(Problem::Unreadable { file: entry.path.display().to_string(), why: error.to_string() }),
        };
        if let Err(problem) = followed {
            return Ok(Verified { head, problem: Some(problem) });
        }
    }
    let problem = known.and_then(|known| chain::holds(known, &head, passed).err());
    Ok(Verified { head, problem })
}

/// The record that has this hash, whether or not the log is whole.
///
/// # Errors
/// If the files cannot be read.
pub fn find(folder: &Path, hash: &Hash) -> io::Result<Option<Head>> {
    for entry in entries(folder)? {
        let (mut file, mut line) = (BufReader::new(File::open(&entry.path)?), Vec::new());
        while chain::read_line(&mut file, &mut line)? > 0 {
            let found = Line::parse(line.trim_ascii_end()).filter(|line| line.hash == *hash);
            if let Some(found) = found {
                return Ok(Some(found.head()));
            }
            line.clear();
        }
    }
    Ok(None)
}

/// The last `count` lines of the first `length` bytes of a file, without their ends; fewer if there are no more.
///
/// # Errors
/// If it cannot be read.
pub fn last_lines(path: &Path, length: u64, count: usize) -> io::Result<Vec<String>> {
    let file = File::open(path)?;
    let (mut start, mut end) = (length.min(file.metadata()?.len()), Vec::new());
    while start > 0 && end.iter().filter(|byte| **byte == b'\n').count() <= count {
        let step = start.min(CHUNK);
        start -= step;
        let mut chunk = vec![0; usize::try_from(step).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut chunk, start)?;
        chunk.extend_from_slice(&end);
        end = chunk;
    }
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect())
}

/// The lines of a file from `offset` to `length`, at most some hundred KiB of them, and where the next begins.
///
/// # Errors
/// If it cannot be read.
pub fn lines_from(path: &Path, offset: u64, length: u64) -> io::Result<(Vec<String>, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut file = BufReader::new(file.take(length.saturating_sub(offset)));
    let (mut lines, mut line, mut next) = (Vec::new(), Vec::new(), offset);
    while next - offset < 4 * CHUNK && chain::read_line(&mut file, &mut line)? > 0 {
        next += line.len() as u64;
        lines.push(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        line.clear();
    }
    Ok((lines, next))
}
