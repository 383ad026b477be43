//! Why a request failed, in a line.

use std::error::Error;
use std::io;

use super::address::{Address, Service};

/// Why a request or a fetch failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt may succeed.
    Passing(String),
    /// It would fail again.
    Final(String),
    /// The server answered with this status, which another attempt does not change.
    Refused {
        status: u16,
        reason: String,
    },
    /// The object is another one than at the first request.
    Changed,
    /// The file cannot be written.
    Disk(io::Error),
    Stopped,
}

impl Failure {
    /// By the status of an answer.
    pub(super) fn of_status(status: u16, reason: String) -> Self {
        match status {
            408 | 425 | 429 | 500.. => {
                Self::Passing(format!("the server answered {status} {reason}").trim_end().into())
            }
            412 => Self::Changed,
            _ => Self::Refused { status, reason },
        }
    }

    pub(super) fn of_web(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_builder() { Self::Final(chain(&error)) } else { Self::Passing(chain(&error)) }
    }

    pub(super) fn of_cloud(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let words = chain(&error);
        let refused = |status| Self::Refused { status, reason: reason(&words) };
        match error {
            E::NotFound { .. } => refused(404),
            E::PermissionDenied { .. } => refused(403),
            E::Unauthenticated { .. } => refused(401),
            E::Precondition { .. } | E::NotModified { .. } => Self::Changed,
            E::Generic { .. } if words.contains("without LOCATION") => refused(301),
            E::Generic { .. } => match status(&words) {
                Some(status) => Self::of_status(status, reason(&words)),
                None => Self::Passing(last(&error)),
            },
            _ => Self::Final(words),
        }
    }

    /// As an error that says what to do. `attempts` were made.
    pub(super) fn explain(self, address: Address<'_>, attempts: u32) -> io::Error {
        match self {
            Self::Disk(error) => io::Error::new(error.kind(), format!("cannot write what was fetched: {error}")),
            Self::Stopped => io::Error::other("it was stopped"),
            Self::Passing(what) => io::Error::other(format!("{what} ({attempts} attempts)")),
            Self::Final(what) => io::Error::new(io::ErrorKind::InvalidInput, what),
            Self::Changed => io::Error::other(format!(
                "it changed while it was fetched ({attempts} times); shards must not change while they are in use"
            )),
            Self::Refused { status, reason } => {
                let (what, advice) = advice(address, status, &reason);
                let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                io::Error::new(io::ErrorKind::InvalidInput, format!("{what} ({status}{reason}); {advice}"))
            }
        }
    }
}

/// What a refusal means, and what to do.
fn advice(address: Address<'_>, status: u16, reason: &str) -> (String, String) {
    let Address { service, bucket, key, .. } = address;
    let container = if service == Service::Azure { "container" } else { "bucket" };
    match (service, status) {
        (Service::Web, 401 | 403) => (
            "access is denied".into(),
            "a web server must give the file without a login, or by a signed address".into(),
        ),
        (Service::Web, 404 | 410) => ("there is no such file".into(), "check the address".into()),
        (_, 404) if reason.contains("Bucket") || reason.contains("Container") => {
            (format!("there is no {container} `{bucket}`"), format!("check its name{}", endpoint(service)))
        }
        (_, 404) => (
            format!("the {container} `{bucket}` has no `{key}`"),
            format!("check its name{}; a folder ends in `/`", endpoint(service)),
        ),
        (_, 401 | 403) => (format!("access to `{key}` in the {container} `{bucket}` is denied"), credentials(service)),
        (Service::S3, 301 | 307 | 400) => {
            (format!("the bucket `{bucket}` is not there"), "set AWS_REGION to the bucket's region".into())
        }
        _ => ("the server refused".into(), "check the address and the endpoint".into()),
    }
}

fn endpoint(service: Service) -> &'static str {
    if service == Service::S3 { ", and AWS_ENDPOINT_URL if the store is not Amazon's" } else { "" }
}

/// Where credentials come from.
fn credentials(service: Service) -> String {
    match service {
        Service::S3 => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to credentials that may read it",
        Service::Google => "set GOOGLE_APPLICATION_CREDENTIALS to the file of an account that may read it",
        Service::Azure => {
            "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, to ones that may \
             read it"
        }
        Service::Web => "",
    }
    .to_owned()
}

/// The messages of an error and of its causes, without those that the one before repeats.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        next = cause.source();
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The innermost messages of an error: those around it repeat the address.
fn last(error: &object_store::Error) -> String {
    let mut causes = vec![];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    let kept = causes.len().saturating_sub(2);
    let mut words = causes.split_off(kept);
    words.dedup();
    if words.is_empty() { chain(error) } else { words.join(": ") }
}

/// The status in a message of `object_store`.
fn status(words: &str) -> Option<u16> {
    words.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

/// What an object store says in XML, or nothing.
fn reason(words: &str) -> String {
    let between = |open: &str, close: &str| Some(words.split_once(open)?.1.split_once(close)?.0);
    between("<Code>", "</Code>").unwrap_or_default().to_owned()
}
