//! Training from an object store (moto, in a process of its own), and from the output of commands.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{checkpoint, command, tensors, train, train_args};
use crate::pack;
use crate::robust::png;

fn shard(number: usize) -> Vec<u8> {
    let mut archive = Vec::new();
    for sample in 0..6 {
        pack::append(&mut archive, format!("{sample}.png"), &png((number * 7 + sample) as u8));
        pack::append(&mut archive, format!("{sample}.txt"), format!("a word {}", (number + sample) % 10).as_bytes());
    }
    pack::finish(&mut archive);
    archive
}

/// A server that ends with the test.
struct Store {
    server: Child,
    port: u16,
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Store {
    /// `None`, with the reason printed, where it cannot be installed.
    fn start() -> Option<Self> {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/s3-server");
        let installed = Command::new(tool).output().expect("bash");
        let path = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
        if !installed.status.success() {
            println!("skipped: moto cannot be installed: {}", String::from_utf8_lossy(&installed.stderr).trim());
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut command = Command::new(path);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let store = Self { server: command.spawn().expect("moto"), port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "moto does not listen");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(store)
    }

    /// Puts an object, or a bucket if there is no key. moto does not check the signature.
    fn put(&self, path: &str, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("moto");
        let head = format!(
            "PUT /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nAuthorization: \
             AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes()).expect("moto listens");
        stream.write_all(bytes).expect("moto listens");
        let mut stream = BufReader::new(stream);
        let mut status = String::new();
        stream.read_line(&mut status).expect("an answer");
        assert!(status.contains(" 200 "), "{path}: {status}");
        stream.read_to_end(&mut Vec::new()).expect("an answer");
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = command();
        command.args(args).env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_REGION", "us-east-1");
        command.env_remove("HTTP_PROXY").env_remove("http_proxy").env("NO_PROXY", "127.0.0.1");
        command
    }

    fn run(&self, args: &[String]) -> (bool, String) {
        let Output { status, stdout, stderr } = self.command(args).output().expect("flipk");
        (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
    }
}

fn vocab(folder: &Path) -> String {
    let path = folder.join("vocab.txt");
    std::fs::write(&path, "[PAD]\n[UNK]\na\nword\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
    format!("--tokenizer={}", path.display())
}

#[test]
fn a_run_from_an_object_store_has_the_bits_of_a_local_one() {
    let Some(store) = Store::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    store.put("bucket", b"");
    for number in 0..20 {
        std::fs::write(shards.join(format!("{number:03}.tar")), shard(number)).unwrap();
        store.put(&format!("bucket/f/{number:03}.tar"), &shard(number));
    }
    store.put("bucket/f/notes.md", b"no shard");
    store.put("bucket/f/deeper/000.tar", &shard(0));
    let vocab = vocab(folder.path());
    let run = |name: &str| folder.path().join(name);
    let common = [&*vocab, "--order=shards", "--batch=8", "--io-timeout=20"];
    let local = format!("--data={}", shards.display());
    train(&run("local"), &[&common[..], &[&local, "--steps=20"]].concat()).expect(0);
    let expected = tensors(&checkpoint(&run("local"), 20));
    for (name, data) in [("braces", "f/{000..019}.tar"), ("folder", "f/"), ("glob", "f/0[0-9]*.tar")] {
        let data = format!("--data=s3://bucket/{data}");
        let (done, said) = store.run(&train_args(&run(name), &[&common[..], &[&data, "--steps=20"]].concat()));
        assert!(done, "{said}");
        assert!(tensors(&checkpoint(&run(name), 20)) == expected, "{name}");
    }
    // Killed, and resumed from the cache.
    let cache = format!("--cache={}", run("cache").display());
    let flags = [&common[..], &["--data=s3://bucket/f/", "--steps=400", "--save-every=5", &cache]].concat();
    let mut killed = store.command(&train_args(&run("killed"), &flags)).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !checkpoint(&run("killed"), 10).exists() {
        assert!(begun.elapsed() < Duration::from_secs(100), "it does not train");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!checkpoint(&run("killed"), 400).exists(), "it was to be killed on the way");
    let resume = ["train".to_owned(), format!("--resume={}", run("killed").display())];
    let (done, said) = store.run(&resume);
    assert!(done, "{said}");
    let whole = [&common[..], &[&local, "--steps=400", "--save-every=0"]].concat();
    train(&run("whole"), &whole).expect(0);
    assert!(tensors(&checkpoint(&run("killed"), 400)) == tensors(&checkpoint(&run("whole"), 400)));
    // A limit of files' sizes stands in for a full disk: a shard fits into it, but not with its record in the cache.
    let args =
        ["data", "check", "s3://bucket/f/000.tar", &format!("--cache={}", run("full").display())].map(str::to_owned);
    let limit = format!("ulimit -f {}; trap '' XFSZ; exec \"$0\" \"$@\"", shard(0).len() / 1024 + 1);
    let mut limited = Command::new("bash");
    let whole = store.command(&args);
    limited.arg("-c").arg(limit).arg(whole.get_program()).args(whole.get_args());
    limited.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = limited.output().expect("bash");
    let warned = String::from_utf8_lossy(&said.stderr).matches("are not cached").count();
    assert!(said.status.success() && warned == 1, "{said:?}");
    for (data, words) in [
        ("bucket/none.tar", "the bucket `bucket` has no `none.tar`"),
        ("nowhere/", "there is no bucket `nowhere`"),
        ("bucket/f/*.tgz", "no shards in `s3://bucket/f/*.tgz`; it holds 000.tar"),
    ] {
        let data = format!("--data=s3://{data}");
        let (done, said) = store.run(&train_args(&run("error"), &[&*vocab, &data, "--steps=1"]));
        assert!(!done && said.contains(words) && said.trim().lines().count() == 1, "{said}");
    }
}

#[test]
fn a_run_from_commands_has_the_bits_of_a_local_one() {
    let folder = tempfile::tempdir().unwrap();
    (0..3).for_each(|number| std::fs::write(folder.path().join(format!("{number}.tar")), shard(number)).unwrap());
    let vocab = vocab(folder.path());
    let path = folder.path().display();
    let mut found = Vec::new();
    for (name, data) in [("local", format!("{path}/{{0..2}}.tar")), ("pipe", format!("pipe:cat {path}/{{0..2}}.tar"))] {
        let out = folder.path().join(name);
        train(&out, &[&*vocab, &format!("--data={data}"), "--batch=4", "--steps=8"]).expect(0);
        found.push(tensors(&checkpoint(&out, 8)));
    }
    assert!(found[0] == found[1]);
    // Ctrl-C while a shard does not come: the run is saved at once.
    let (out, go) = (folder.path().join("waits"), folder.path().join("go"));
    std::fs::write(&go, b"").unwrap();
    let script = format!("pipe:test -e {} || sleep 60; cat {path}/{{0..2}}.tar", go.display());
    let flags =
        [&*vocab, &format!("--data={script}"), "--order=shards", "--batch=4", "--steps=100000", "--save-every=5"];
    let child = crate::harness::start_until(&train_args(&out, &flags), &checkpoint(&out, 5));
    std::fs::remove_file(&go).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let ran = crate::harness::ended(child).expect(0);
    assert!(ran.stdout.contains("stopped after step") && begun.elapsed() < Duration::from_secs(20));
}

/// A server that does not say which version of a file it sends: the file is fetched each time, and a line says so.
#[test]
fn what_has_no_version_is_not_cached() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a request"));
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line: &String| !line.trim().is_empty()) {
                let mut line = String::new();
                stream.read_line(&mut line).expect("a line");
                lines.push(line);
            }
            let body = shard(lines[0].contains("1.tar").into());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let body = if lines[0].starts_with("HEAD") { Vec::new() } else { body };
            stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).expect("a reader");
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let flags = [format!("--data=http://127.0.0.1:{port}/{{0,1}}.tar"), format!("--cache={}", cache.display())];
    let vocab = folder.path().join("vocab.txt");
    std::fs::write(&vocab, "[PAD]\n[UNK]\na\nword\n").unwrap();
    let flags = [&flags[..], &[format!("--tokenizer={}", vocab.display()), "--steps=2".into(), "--batch=4".into()]];
    let flags: Vec<String> = flags.concat();
    let mut command = command();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    command.args(train_args(&folder.path().join("run"), &flags)).env("NO_PROXY", "127.0.0.1");
    let ran = command.env_remove("HTTP_PROXY").env_remove("http_proxy").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    let kept = std::fs::read_dir(&cache).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "lock").count();
    assert!(ran.status.success() && kept == 0, "{said}");
    assert_eq!(said.matches("is not cached, nor are others like it").count(), 1, "{said}");
}
