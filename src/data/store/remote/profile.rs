//! Credentials and settings as AWS's command line has them: variables, and the files in `~/.aws`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the variables and the files of a profile say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Access key, secret key and token of the session; `None` if there are none.
    pub(super) keys: Option<(String, String, Option<String>)>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

impl Profile {
    /// `variable` reads a variable of the environment.
    ///
    /// # Errors
    /// A profile that is named and does not exist, or has only credentials that other programs must fetch.
    pub(super) fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
        let name = named.as_deref().unwrap_or("default");
        let home = variable("HOME").or_else(|| variable("USERPROFILE"));
        let file = |given: &str, usual: &str| {
            let usual = home.as_ref().map(|home| Path::new(home).join(".aws").join(usual));
            variable(given).map(PathBuf::from).or(usual)
        };
        let mut found = None::<HashMap<String, String>>;
        let section = |name: &str| if name == "default" { name.to_owned() } else { format!("profile {name}") };
        let files = [
            (file("AWS_CONFIG_FILE", "config"), section(name)),
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), name.to_owned()),
        ];
        for (path, section) in files {
            let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
            if let Some(values) = read(&text, &section) {
                found.get_or_insert_default().extend(values);
            }
        }
        if let Some(name) = named.as_ref().filter(|_| found.is_none()) {
            return Err(format!("AWS_PROFILE is `{name}`, and there is no such profile in ~/.aws"));
        }
        let mut values = found.unwrap_or_default();
        let (region, endpoint) = (values.remove("region"), values.remove("endpoint_url"));
        let by_variables = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
        let keys = match by_variables {
            Some((id, secret)) => Some((id, secret, variable("AWS_SESSION_TOKEN"))),
            None => {
                let keys = values.remove("aws_access_key_id").zip(values.remove("aws_secret_access_key"));
                keys.map(|(id, secret)| (id, secret, values.remove("aws_session_token")))
            }
        };
        const FETCHED: [&str; 5] = ["credential_process", "sso_session", "sso_start_url", "role_arn", "login_session"];
        if let Some(key) = FETCHED.iter().find(|key| keys.is_none() && values.contains_key(**key)) {
            return Err(format!(
                "the profile `{name}` has no keys but `{key}`, which flipk does not follow; set the variables that \
                 `aws configure export-credentials --profile {name} --format env` prints"
            ));
        }
        Ok(Self { keys, region, endpoint })
    }
}

/// The values of a section of an INI file.
fn read(text: &str, wanted: &str) -> Option<HashMap<String, String>> {
    let mut found = None::<HashMap<String, String>>;
    let mut is_wanted = false;
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|line| line.split_once(']')).map(|(name, _)| name) {
            is_wanted = name.split_whitespace().eq(wanted.split_whitespace());
            if is_wanted {
                found.get_or_insert_default();
            }
        } else if is_wanted
            // Indented lines belong to a key above.
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = line.split_once('=')
            && let Some(found) = &mut found
        {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_variables_or_the_files_of_the_profile() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(
            folder.join("config"),
            "[default]\nregion = eu-west-1\n# a note\n[profile lab]\nendpoint_url=http://lab:9000\ns3 =\n  region = no\n\
             [profile out]\nsso_session = x\n",
        )
        .unwrap();
        std::fs::write(
            folder.join("credentials"),
            "[default]\naws_access_key_id=A\naws_secret_access_key = S\n[lab]\naws_access_key_id=L\n\
             aws_secret_access_key=M\naws_session_token=T\n",
        )
        .unwrap();
        let find = |given: &[(&str, &str)]| {
            Profile::find(|name| match name {
                "HOME" => Some(home.path().display().to_string()),
                name => given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
            })
        };
        let some = |text: &str| Some(text.to_owned());
        let keys = |id: &str, secret: &str, token| Some((id.to_owned(), secret.to_owned(), token));
        let usual = Profile { keys: keys("A", "S", None), region: some("eu-west-1"), endpoint: None };
        assert_eq!(find(&[]).unwrap(), usual);
        let lab = Profile { keys: keys("L", "M", some("T")), region: None, endpoint: some("http://lab:9000") };
        assert_eq!(find(&[("AWS_PROFILE", "lab")]).unwrap(), lab);
        let given = [("AWS_ACCESS_KEY_ID", "V"), ("AWS_SECRET_ACCESS_KEY", "W")];
        assert_eq!(find(&given).unwrap(), Profile { keys: keys("V", "W", None), ..usual });
        assert!(find(&[("AWS_PROFILE", "none")]).unwrap_err().contains("no such profile"));
        assert!(find(&[("AWS_PROFILE", "out")]).unwrap_err().contains("has no keys but `sso_session`"));
        assert_eq!(Profile::find(|_| None).unwrap(), Profile::default());
    }
}
