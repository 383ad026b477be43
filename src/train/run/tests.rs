//! Whole runs, on ranks that are threads.

use std::fs;
use std::path::Path;

use super::*;
use crate::data::testing::{Archive, png};
use crate::device::Cpu;
use crate::group::{Group, Threads, Watched};
use crate::train::Options;

fn options(folder: &Path, data: &Archive) -> Options {
    let vocab = folder.join("vocab.txt");
    fs::write(&vocab, "[PAD]\n[UNK]\nodd\nname\n0\n1\n2\n3\n4\n5\n6\n7\n").unwrap();
    let text = format!(
        "data = ['{}']\ntokenizer = '{}'\norder = 'global'\nbatch = 8\nmicro_batches = 2\nsteps = 3\nlog_every = 1\n\
         lr = 1e-3\nloader_threads = 1\nimage_size = 16\npatch_size = 4\nvision_layers = 1\nvision_width = 32\n\
         vision_heads = 2\ntext_layers = 1\ntext_width = 32\ntext_heads = 2\nembed_dim = 16\n",
        data.file(),
        vocab.display()
    );
    toml::from_str(&text).unwrap()
}

/// Eight samples, of which the fifth alone has the token `odd`.
fn data() -> Archive {
    let mut archive = Archive::default();
    for number in 0..8 {
        let caption = if number == 4 { "odd name".to_owned() } else { format!("name {number}") };
        archive.add(&format!("{number}.png"), &png(20, 20, number)).add(&format!("{number}.txt"), caption.as_bytes());
    }
    archive
}

/// How a run ends on rank 0.
fn run(ranks: usize, options: &Options, out: &Path) -> Result<Ended, TrainError> {
    let start = |group: Threads| {
        let (options, out) = (options.clone(), out.to_owned());
        std::thread::spawn(move || {
            let group: Arc<dyn Group> = Arc::new(Watched::new(Arc::new(group)));
            let plan = Plan::start_in(group.clone(), options, Some(&out)).unwrap();
            (train(Arc::new(Cpu::default()), plan, &AtomicBool::new(false), &mut |_| {}), group)
        })
    };
    let ranks: Vec<_> = Threads::group(ranks).into_iter().map(start).collect();
    let mut ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    let ended = ranks.remove(0).0;
    assert!(ranks.iter().all(|(other, _)| other.is_ok() == ended.is_ok()), "all ranks end alike");
    ended
}

#[test]
fn metrics_tell_the_slowest_of_two_ranks() {
    let (folder, data) = (tempfile::tempdir().unwrap(), data());
    let out = folder.path().join("run");
    run(2, &options(folder.path(), &data), &out).unwrap();
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Metrics> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        let (slowest, median) = (line.slowest_compute.unwrap(), line.median_compute.unwrap());
        assert!(line.slowest_rank.unwrap() < 2 && slowest >= median && median > 0.0, "{line:?}");
        assert!(line.slowest_data_rank.unwrap() < 2 && line.slowest_data_wait.unwrap() >= line.data_wait, "{line:?}");
    }
}
