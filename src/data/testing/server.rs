//! A web server for tests, which can misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Honest,
    /// 200 and the whole file, whatever range is asked for.
    NoRanges,
    /// The same, without saying how long it is.
    Unmeasured,
    /// Nothing more after half of the body.
    Stall,
    /// No answer at all.
    Silent,
    /// Ends the connection after half of the body.
    Cut,
    /// 503.
    Busy,
    /// 403.
    Denied,
    /// Announces 100 bytes more than it sends.
    Boasting,
    /// Sends another part than it was asked for.
    Elsewhere,
    /// Sends a part that reaches beyond the end, by its header.
    Contradicting,
    /// Another ETag.
    Changed,
}

/// By the number of the GET, from 0.
type Moods = Box<dyn Fn(usize) -> Mood + Send + Sync>;

struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    /// Method and path of each request.
    log: Mutex<Vec<String>>,
    moods: Moods,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves files from memory, until the program ends.
pub(crate) struct Server {
    port: u16,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on a free port.
    pub(crate) fn new(moods: impl Fn(usize) -> Mood + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { files: Mutex::default(), log: Mutex::default(), moods: Box::new(moods) });
        let serves = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serves = serves.clone();
                // A client that is gone is not a failure.
                thread::spawn(move || drop(serves.answer(&stream)));
            }
        });
        Self { port, shared }
    }

    /// Puts a file at a path without its first slash, and gives its address.
    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) -> String {
        lock(&self.shared.files).insert(format!("/{path}"), bytes);
        self.address(path)
    }

    pub(crate) fn address(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// How many requests of this method there were for paths that end in `end`.
    pub(crate) fn count(&self, method: &str, end: &str) -> usize {
        lock(&self.shared.log).iter().filter(|line| line.starts_with(method) && line.ends_with(end)).count()
    }
}

impl Shared {
    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let (mut range, mut wanted) = (None, None);
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => range = value.strip_prefix("bytes=").and_then(|range| range.split_once('-')).map(owned),
                "if-match" => wanted = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        let before = {
            let mut log = lock(&self.log);
            log.push(format!("{method} {path}"));
            log.iter().filter(|line| line.starts_with("GET") && line.ends_with(path)).count()
        };
        let mood = if method == "GET" { (self.moods)(before - 1) } else { Mood::Honest };
        let file = lock(&self.files).get(path).cloned();
        reply(stream, method, mood, file, range, wanted.as_deref())
    }
}

fn owned((first, last): (&str, &str)) -> (usize, usize) {
    (first.parse().unwrap_or(0), last.parse().unwrap_or(usize::MAX - 1))
}

/// How long a connection that says no more stays open.
const LONG: Duration = Duration::from_secs(20);

fn reply(
    mut stream: &TcpStream,
    method: &str,
    mood: Mood,
    file: Option<Vec<u8>>,
    range: Option<(usize, usize)>,
    wanted: Option<&str>,
) -> std::io::Result<()> {
    let bare = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let Some(file) = file else { return stream.write_all(bare("404 Not Found").as_bytes()) };
    let sum = file.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let tag = if mood == Mood::Changed { "\"changed\"".to_owned() } else { format!("\"{sum:x}\"") };
    match mood {
        Mood::Busy => return stream.write_all(bare("503 Service Unavailable").as_bytes()),
        Mood::Denied => return stream.write_all(bare("403 Forbidden").as_bytes()),
        Mood::Silent => {
            thread::sleep(LONG);
            return Ok(());
        }
        _ if wanted.is_some_and(|wanted| wanted != tag) => {
            return stream.write_all(bare("412 Precondition Failed").as_bytes());
        }
        _ => {}
    }
    let whole = range.is_none() || matches!(mood, Mood::NoRanges | Mood::Unmeasured);
    let (first, end) = match range.filter(|_| !whole) {
        Some((first, last)) => (first, (last + 1).min(file.len())),
        None => (0, file.len()),
    };
    if first >= end {
        let head = format!(
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            file.len()
        );
        return stream.write_all(head.as_bytes());
    }
    let (more, shift) = (usize::from(mood == Mood::Boasting) * 100, usize::from(mood == Mood::Elsewhere));
    let status = if whole { "200 OK" } else { "206 Partial Content" };
    let mut head = format!("HTTP/1.1 {status}\r\nETag: {tag}\r\nConnection: close\r\n");
    if mood != Mood::Unmeasured {
        head += &format!("Content-Length: {}\r\n", end - first + more);
    }
    if !whole {
        let last = if mood == Mood::Contradicting { file.len() } else { end - 1 };
        head += &format!("Content-Range: bytes {}-{last}/{}\r\n", first + shift, file.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    let body = &file[first..end];
    match mood {
        Mood::Cut => stream.write_all(&body[..body.len() / 2]),
        Mood::Stall => {
            stream.write_all(&body[..body.len() / 2])?;
            thread::sleep(LONG);
            Ok(())
        }
        _ => stream.write_all(body),
    }
}
