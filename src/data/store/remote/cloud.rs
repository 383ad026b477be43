//! Clients of object stores: credentials, lists.

use std::collections::HashMap;
use std::env;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::stream::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::address::{Address, Service};
use super::failure::Failure;
use super::profile::Profile;

type Stores = Mutex<HashMap<(Service, String, Duration), Arc<dyn ObjectStore>>>;

/// The client of a bucket, which keeps its connections.
pub(super) fn store(address: Address<'_>, timeout: Duration) -> Result<Arc<dyn ObjectStore>, Failure> {
    static STORES: OnceLock<Stores> = OnceLock::new();
    let key = (address.service, address.bucket.to_owned(), timeout);
    let mut stores = STORES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = stores.get(&key) {
        return Ok(store.clone());
    }
    let built = build(address, timeout)?;
    stores.insert(key, built.clone());
    Ok(built)
}

fn build(address: Address<'_>, timeout: Duration) -> Result<Arc<dyn ObjectStore>, Failure> {
    let wrong = |error: object_store::Error| Failure::Final(error.to_string());
    // A timeout of whole requests would end long ones although bytes arrive. Attempts are counted by the caller.
    let options = ClientOptions::new().with_timeout_disabled().with_connect_timeout(timeout).with_read_timeout(timeout);
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let bucket = address.bucket;
    Ok(match address.service {
        Service::S3 => {
            let profile = Profile::find(|name| env::var(name).ok()).map_err(Failure::Final)?;
            let mut builder = AmazonS3Builder::from_env().with_client_options(options).with_retry(retry);
            builder = builder.with_bucket_name(bucket);
            let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(env::var_os);
            let endpoint = endpoint.and_then(|url| url.into_string().ok()).or(profile.endpoint);
            if let Some(endpoint) = endpoint {
                builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
            }
            if let Some(region) = profile.region.filter(|_| !has(&["AWS_REGION", "AWS_DEFAULT_REGION"])) {
                builder = builder.with_region(region);
            }
            match profile.keys {
                Some((id, secret, token)) => {
                    builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                    if let Some(token) = token {
                        builder = builder.with_token(token);
                    }
                }
                None if !has_aws_role() => builder = builder.with_skip_signature(true),
                None => {}
            }
            Arc::new(builder.build().map_err(wrong)?)
        }
        Service::Google => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_client_options(options).with_retry(retry);
            builder = builder.with_bucket_name(bucket).with_skip_signature(!has_google());
            Arc::new(builder.build().map_err(wrong)?)
        }
        Service::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_client_options(options).with_retry(retry);
            builder = builder.with_container_name(bucket);
            // The names that Azure's command line uses.
            if let Ok(account) = env::var("AZURE_STORAGE_ACCOUNT") {
                builder = builder.with_account(account);
            }
            if let Ok(key) = env::var("AZURE_STORAGE_KEY") {
                builder = builder.with_access_key(key);
            }
            if !env::vars_os().any(|(name, _)| is_azure_credential(&name.to_string_lossy())) {
                builder = builder.with_skip_signature(true);
            }
            Arc::new(builder.build().map_err(|error| {
                Failure::Final(format!("{error}; set AZURE_STORAGE_ACCOUNT_NAME to the account of the container"))
            })?)
        }
        Service::Web => return Err(Failure::Final("a web server has no buckets".to_owned())),
    })
}

fn has(names: &[&str]) -> bool {
    names.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Whether a machine's maker says so.
fn is_made_by(file: &str, maker: &str) -> bool {
    std::fs::read_to_string(Path::new("/sys/class/dmi/id").join(file)).is_ok_and(|name| name.contains(maker))
}

/// Whether the program runs where Amazon gives out credentials by themselves.
fn has_aws_role() -> bool {
    const GIVEN: [&str; 3] =
        ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    let asks = env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    has(&GIVEN) || !asks && is_made_by("sys_vendor", "Amazon EC2")
}

fn has_google() -> bool {
    const GIVEN: [&str; 4] = [
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ];
    let file = ".config/gcloud/application_default_credentials.json";
    let is_logged_in = env::var_os("HOME").is_some_and(|home| Path::new(&home).join(file).exists());
    has(&GIVEN) || is_logged_in || is_made_by("product_name", "Google Compute Engine")
}

fn is_azure_credential(name: &str) -> bool {
    ["KEY", "SAS", "TOKEN", "CLIENT", "TENANT", "IDENTITY", "MSI", "CREDENTIAL"]
        .iter()
        .any(|part| name.starts_with("AZURE_") && name.contains(part))
}

/// The keys in the folder of a pattern, and in folders below it if the pattern has more parts.
pub(super) async fn list(address: Address<'_>, timeout: Duration) -> Result<Vec<String>, Failure> {
    let store = store(address, timeout)?;
    let fixed = address.key.find(['*', '?', '[']).unwrap_or(address.key.len());
    let (folder, rest) = address.key.split_at(address.key[..fixed].rfind('/').map_or(0, |slash| slash + 1));
    let folder = object_store::path::Path::parse(folder)
        .map_err(|error| Failure::Final(format!("the name cannot be read: {error}")))?;
    let objects = match rest.contains('/') {
        true => store.list(Some(&folder)).try_collect().await.map_err(Failure::of_cloud)?,
        false => store.list_with_delimiter(Some(&folder)).await.map_err(Failure::of_cloud)?.objects,
    };
    Ok(objects.into_iter().map(|object| object.location.to_string()).collect())
}
