//! The small examples, run as a user would.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Output};

use fastrand::Rng;
use ipiq_suites::kv::Scratch;
use ipiq_suites::program::built;
use ipiq_suites::watchdog::watch;

fn example(name: &str, arguments: &[&str]) -> Output {
    Command::new(built("ipiq-examples", name)).args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn hello_greets_from_every_core() {
    let _watch = watch("hello");
    let output = example("hello", &[]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert!(lines[0].starts_with("hello, core 0") && lines[0].ends_with('!'), "{lines:?}");
    assert_eq!(lines.len() - 1, lines[0].matches("core").count());
}

#[test]
fn word_count_counts_what_a_simple_loop_counts() {
    let _watch = watch("word_count");
    let scratch = Scratch::new();
    let mut rng = Rng::with_seed(7);
    let mut expected: HashMap<String, u64> = HashMap::new();
    for file in 0..40 {
        let mut contents = String::new();
        // Some of them empty, one of them long.
        for _ in 0..if file == 7 { 50_000 } else { rng.usize(..200) * (file % 3) } {
            // Few frequent ones, many rare ones, with letters of two bytes.
            let word = format!("wört{}", rng.usize(..rng.clone().usize(1..400)));
            *expected.entry(word.clone()).or_default() += 1;
            let shown = if rng.bool() { word.to_uppercase() } else { word };
            contents += &shown;
            contents += *rng.choice(&[" ", "\n", ", ", "-"]).expect("four");
        }
        let folder = scratch.path().join(format!("folder {}", file % 4));
        fs::create_dir_all(&folder).expect("a place for files");
        fs::write(folder.join(format!("{file}.txt")), contents).expect("space");
    }
    let mut words: Vec<_> = expected.iter().collect();
    words.sort_by(|(word, count), (other, others)| (others, word).cmp(&(count, other)));
    let mut lines: Vec<_> = words[..20].iter().map(|(word, count)| format!("{count:>9} {word}")).collect();
    lines.push(format!("{:>9} different words", expected.len()));
    let directory = scratch.path().to_str().expect("text");
    for cores in ["1", "2", "5"] {
        let output = example("word_count", &["--top", "20", "--cores", cores, directory]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), lines, "{cores} cores");
    }
}

#[test]
fn word_count_says_what_it_cannot_read_and_counts_the_rest() {
    let _watch = watch("word_count, errors");
    let scratch = Scratch::new();
    let (there, missing) = (scratch.path().join("there"), scratch.path().join("missing"));
    fs::write(&there, "once").expect("space");
    let paths = [&missing, &there].map(|path| path.to_str().expect("text"));
    let output = example("word_count", &["--cores", "2", paths[0], paths[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "        1 once\n        1 different words\n");
    assert!(text(&output.stderr).contains(&format!("error: {}: No such file", paths[0])), "{output:?}");
    let output = example("word_count", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("which files?") && text(&output.stderr).contains("Usage:"), "{output:?}");
}
