//! One object at its server: what it is, and ranges of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_MATCH, LAST_MODIFIED, RANGE};
use reqwest::{Client, Response, StatusCode};

use super::address::{Address, Service};
use super::cloud;
use super::failure::Failure;
use crate::data::store::access::seconds;

/// What tells an object from one that replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::data::store) struct Version {
    /// In bytes, if the server says so.
    pub(in crate::data::store) len: Option<u64>,
    /// The ETag, or else the time of the last change.
    pub(in crate::data::store) tag: Option<String>,
}

impl Version {
    /// Whether `other` may be the same.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let same = |a: Option<&str>, b: Option<&str>| a.zip(b).is_none_or(|(a, b)| a == b);
        self.len.zip(other.len).is_none_or(|(a, b)| a == b) && same(self.tag.as_deref(), other.tag.as_deref())
    }

    /// For If-Match, which knows strong tags alone.
    fn strong(&self) -> Option<&str> {
        self.tag.as_deref().filter(|tag| tag.starts_with('"'))
    }
}

/// Bytes as they arrive.
pub(super) type Body = BoxStream<'static, Result<bytes::Bytes, Failure>>;

/// The answer to a request for a range.
pub(super) struct Answer {
    pub(super) version: Version,
    /// The first byte of the body: 0 if the server ignores ranges.
    pub(super) start: u64,
    /// The byte after the last of the body, if that is known.
    pub(super) end: Option<u64>,
    pub(super) body: Body,
}

/// An object at its server.
#[derive(Clone)]
pub(super) enum Place {
    Cloud { store: Arc<dyn ObjectStore>, path: object_store::path::Path },
    Web { client: Client, url: String },
}

impl Place {
    pub(super) fn of(address: Address<'_>, timeout: Duration) -> Result<Self, Failure> {
        if address.service == Service::Web {
            return Ok(Self::Web { client: web_client(timeout)?, url: address.whole.to_owned() });
        }
        let path = object_store::path::Path::parse(address.key)
            .map_err(|error| Failure::Final(format!("the name cannot be read: {error}")))?;
        Ok(Self::Cloud { store: cloud::store(address, timeout)?, path })
    }

    pub(super) fn is_web(&self) -> bool {
        matches!(self, Self::Web { .. })
    }

    /// Length and tag, without the content.
    pub(super) async fn head(&self, timeout: Duration) -> Result<Version, Failure> {
        match self {
            Self::Cloud { store, path } => {
                let meta = in_time(timeout, store.head(path)).await?.map_err(Failure::of_cloud)?;
                Ok(Version { len: Some(meta.size), tag: meta.e_tag })
            }
            Self::Web { client, url } => {
                let answer = in_time(timeout, client.head(url).send()).await?.map_err(Failure::of_web)?;
                if !answer.status().is_success() {
                    return Err(refusal(&answer));
                }
                let headers = answer.headers();
                let len = headers.get(reqwest::header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
                Ok(Version { len, tag: tag(headers) })
            }
        }
    }

    /// Asks for a range of what should be `version`.
    pub(super) async fn get(&self, range: Range<u64>, version: &Version, timeout: Duration) -> Result<Answer, Failure> {
        match self {
            Self::Cloud { store, path } => {
                let range = Some(GetRange::Bounded(range));
                let if_match = version.strong().map(str::to_owned);
                let options = GetOptions { range, if_match, ..GetOptions::default() };
                let got = in_time(timeout, store.get_opts(path, options)).await?.map_err(Failure::of_cloud)?;
                let version = Version { len: Some(got.meta.size), tag: got.meta.e_tag.clone() };
                let Range { start, end } = got.range.clone();
                let body = got.into_stream().map(|part| part.map_err(Failure::of_cloud)).boxed();
                Ok(Answer { version, start, end: Some(end), body })
            }
            Self::Web { client, url } => {
                let mut request = client.get(url).header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
                if let Some(tag) = version.strong() {
                    request = request.header(IF_MATCH, tag);
                }
                let answer = in_time(timeout, request.send()).await?.map_err(Failure::of_web)?;
                web_answer(answer, range)
            }
        }
    }
}

/// Waits for the beginning of an answer.
async fn in_time<T>(timeout: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    let late = |_| Failure::Passing(format!("no answer for {}", seconds(timeout)));
    tokio::time::timeout(timeout, answer).await.map_err(late)
}

fn web_answer(answer: Response, asked: Range<u64>) -> Result<Answer, Failure> {
    let tag = tag(answer.headers());
    let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).map(str::to_owned);
    let status = answer.status();
    let length = answer.content_length();
    let body = |answer: Response| answer.bytes_stream().map(|part| part.map_err(Failure::of_web)).boxed();
    match (status, range.as_deref()) {
        (StatusCode::OK, _) => {
            Ok(Answer { version: Version { len: length, tag }, start: 0, end: length, body: body(answer) })
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some("bytes */0")) if asked.start == 0 => {
            let body = futures_util::stream::empty().boxed();
            Ok(Answer { version: Version { len: Some(0), tag }, start: 0, end: Some(0), body })
        }
        (StatusCode::PARTIAL_CONTENT, range) => {
            let (part, len) = range.and_then(content_range).ok_or_else(|| {
                Failure::Final(match range {
                    Some(range) => format!(
                        "the server sent a part with the header `Content-Range: {range}`, which is not a part of a file"
                    ),
                    None => "the server sent a part without saying which (no header Content-Range)".to_owned(),
                })
            })?;
            if len.is_none() {
                return Err(Failure::Final("the server sent a part without saying how long the file is".to_owned()));
            }
            if part.start != asked.start || part.end > asked.end {
                let problem = format!(
                    "the server was asked for bytes {} to {} and sent {} to {}",
                    asked.start, asked.end, part.start, part.end
                );
                return Err(Failure::Final(problem));
            }
            Ok(Answer { version: Version { len, tag }, start: part.start, end: Some(part.end), body: body(answer) })
        }
        // Beyond the end of an object that has become shorter.
        (StatusCode::RANGE_NOT_SATISFIABLE, _) => Err(Failure::Changed),
        _ => Err(refusal(&answer)),
    }
}

fn refusal(answer: &Response) -> Failure {
    let status = answer.status();
    Failure::of_status(status.as_u16(), status.canonical_reason().unwrap_or_default().to_owned())
}

/// `bytes 0-99/1234`, where the length may be `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (part, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (start, end) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    let len = if len == "*" { None } else { Some(len.parse().ok()?) };
    (start < end && len.is_none_or(|len| end <= len)).then_some((start..end, len))
}

fn tag(headers: &HeaderMap) -> Option<String> {
    let of = |name: HeaderName| headers.get(name).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    of(ETAG).or_else(|| of(LAST_MODIFIED))
}

/// The client for plain addresses, which keeps its connections.
fn web_client(timeout: Duration) -> Result<Client, Failure> {
    static CLIENTS: OnceLock<Mutex<HashMap<Duration, Client>>> = OnceLock::new();
    let mut clients = CLIENTS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&timeout) {
        return Ok(client.clone());
    }
    let agent = concat!("flipk/", env!("CARGO_PKG_VERSION"));
    let client = Client::builder().user_agent(agent).connect_timeout(timeout).build().map_err(Failure::of_web)?;
    clients.insert(timeout, client.clone());
    Ok(client)
}
