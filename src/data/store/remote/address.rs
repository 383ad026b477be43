//! Parses `s3://bucket/key` and similar addresses.

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::data::store) enum Service {
    S3,
    Google,
    Azure,
    Web,
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data::store) struct Address<'a> {
    pub(super) whole: &'a str,
    pub(super) service: Service,
    /// The bucket, or the container.
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
}

impl<'a> Address<'a> {
    /// `None` if it is not an address that can be read.
    pub(in crate::data::store) fn parse(whole: &'a str) -> Option<Self> {
        let (scheme, rest) = whole.split_once("://")?;
        let service = match scheme {
            "s3" => Service::S3,
            "gs" => Service::Google,
            "az" => Service::Azure,
            "http" | "https" => Service::Web,
            _ => return None,
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Self { whole, service, bucket, key })
    }

    /// Whether folders can be listed there.
    pub(in crate::data::store) fn has_lists(self) -> bool {
        self.service != Service::Web
    }

    /// Whether it has a bucket or a host.
    pub(in crate::data::store) fn has_bucket(self) -> bool {
        !self.bucket.is_empty()
    }

    /// As the user writes it.
    pub(in crate::data::store) fn address(self) -> &'a str {
        self.whole
    }

    /// The path in the bucket, or on the server.
    pub(in crate::data::store) fn key(self) -> &'a str {
        self.key
    }

    /// The path in the bucket; on a web server, without the query that may follow it.
    pub(in crate::data::store) fn path(self) -> &'a str {
        match self.service {
            Service::Web => self.key.split('?').next().unwrap_or_default(),
            _ => self.key,
        }
    }

    /// Whether it stands for a folder. A web server may make a file of any query.
    pub(in crate::data::store) fn is_folder(self) -> bool {
        self.path() == self.key && (self.key.is_empty() || self.key.ends_with('/'))
    }

    /// As the user writes it, of another key in the same bucket.
    pub(in crate::data::store) fn with_key(self, key: &str) -> String {
        let start = self.whole.len() - self.key.len();
        let slash = if self.whole[..start].ends_with('/') { "" } else { "/" };
        format!("{}{slash}{key}", &self.whole[..start])
    }
}
