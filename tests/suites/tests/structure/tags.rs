//! Protocols and the lines that carry out their steps.
//!
//! A protocol is a `README.md` in a module of the runtime whose first line is `# name` and whose steps are list items
//! beginning with a bold letter and number: `- **P1** ...`. A comment cites a step as `[name P1]`. Every tag must name a
//! step there is, and every step must be cited in the code of the protocol's own crate.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Source, assert_none, is_readme, is_rust, sources};

/// A step: the protocol's name and the step's, such as `ring` and `P1`.
type Step = (String, String);

#[test]
fn every_tag_names_a_step_and_every_step_is_cited() {
    assert_none(faults(&sources("runtime", is_readme), &sources("runtime", is_rust)));
}

#[test]
fn the_runtime_has_protocols() {
    let readmes = sources("runtime", is_readme);
    let (steps, _) = steps(&readmes);
    for protocol in
        ["ring", "doorbell", "overflow", "call", "shootdown", "loop", "task", "kick", "xcall", "cpusync", "urgent"]
    {
        assert!(steps.keys().any(|(name, _)| name == protocol), "{protocol} has no steps");
    }
}

fn faults(readmes: &[Source], code: &[Source]) -> Vec<String> {
    let (steps, mut faults) = steps(readmes);
    let mut cited = Vec::new();
    for source in code {
        for (line, text) in source.text.lines().enumerate() {
            for step in text.find("//").into_iter().flat_map(|start| tags(&text[start..])) {
                if steps.contains_key(&step) {
                    cited.push((step, crate_of(&source.path)));
                } else {
                    faults.push(format!("{}:{}: no step [{} {}]", source.path.display(), line + 1, step.0, step.1));
                }
            }
        }
    }
    for (step, home) in &steps {
        if !cited.contains(&(step.clone(), crate_of(home))) {
            faults.push(format!("{}: no line cites [{} {}]", home.display(), step.0, step.1));
        }
    }
    for readme in readmes {
        let unknown = references(&readme.text, &steps).into_iter().filter(|step| !steps.contains_key(step));
        faults.extend(unknown.map(|(name, step)| format!("{}: no step `{name}` {step}", readme.path.display())));
    }
    faults
}

/// All steps with the README that defines each, and what is wrong with the definitions.
fn steps(readmes: &[Source]) -> (BTreeMap<Step, &Path>, Vec<String>) {
    let (mut steps, mut faults) = (BTreeMap::new(), Vec::new());
    for readme in readmes {
        let path = readme.path.as_path();
        let defined: Vec<&str> = readme.text.lines().filter_map(defined_step).collect();
        let name = readme.text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
        if !defined.is_empty() && !is_name(name) {
            faults.push(format!("{}: the first line is not `# name`, one word in lower case", path.display()));
            continue;
        }
        for step in defined {
            if let Some(other) = steps.insert((name.to_owned(), step.to_owned()), path) {
                faults.push(format!("{}: [{name} {step}] is defined in {} too", path.display(), other.display()));
            }
        }
    }
    (steps, faults)
}

/// `- **P1** ...` defines P1.
fn defined_step(line: &str) -> Option<&str> {
    let (step, _) = line.trim_start().strip_prefix("- **")?.split_once("**")?;
    is_step(step).then_some(step)
}

/// `[name P1]` anywhere in a comment. Other brackets are something else: links, slices, attributes.
fn tags(comment: &str) -> Vec<Step> {
    let inner = comment.split('[').skip(1).filter_map(|rest| rest.split_once(']').map(|(inner, _)| inner));
    let pairs = inner.filter_map(|inner| inner.split_once(' '));
    let tags = pairs.filter(|(name, step)| is_name(name) && is_step(step));
    tags.map(|(name, step)| (name.to_owned(), step.to_owned())).collect()
}

/// References from one README to a step of another protocol: `` `name` P1 ``.
fn references(text: &str, steps: &BTreeMap<Step, &Path>) -> Vec<Step> {
    let parts: Vec<&str> = text.split('`').collect();
    let pairs = parts.windows(2).filter_map(|pair| {
        let step = pair[1].strip_prefix(' ')?.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        let known = steps.keys().any(|(name, _)| name == pair[0]);
        (known && is_step(step)).then(|| (pair[0].to_owned(), step.to_owned()))
    });
    pairs.collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn is_step(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_uppercase())
        && text.len() > 1
        && bytes.all(|byte| byte.is_ascii_digit())
}

/// `runtime/fabric` of `runtime/fabric/src/ring/README.md`.
fn crate_of(path: &Path) -> String {
    path.iter().take(2).map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.to_owned() }
}

const RING: &str = "# ring\n\nSteps\n\n- **P1** write\n- **P2** publish\n";

#[test]
fn cited_steps_are_no_faults() {
    let code = "// [ring P1] why\nlet a = x[i]; // [ring P2] and [link](there)\n";
    assert_eq!(faults(&[source("runtime/a/README.md", RING)], &[source("runtime/a/lib.rs", code)]), [""; 0]);
}

#[test]
fn an_unknown_step_and_an_unknown_protocol_are_faults() {
    let code = "// [ring P1]\n/// [ring P2] [ring P9]\n// [rung P1]\n";
    let faults = faults(&[source("runtime/a/README.md", RING)], &[source("runtime/a/lib.rs", code)]);
    assert_eq!(faults, ["runtime/a/lib.rs:2: no step [ring P9]", "runtime/a/lib.rs:3: no step [rung P1]"]);
}

#[test]
fn a_step_that_only_another_crate_cites_is_a_fault() {
    let (here, there) = (source("runtime/a/lib.rs", "// [ring P1]"), source("runtime/b/lib.rs", "// [ring P2]"));
    let faults = faults(&[source("runtime/a/README.md", RING)], &[here, there]);
    assert_eq!(faults, ["runtime/a/README.md: no line cites [ring P2]"]);
}

#[test]
fn a_tag_in_code_is_not_a_citation() {
    let code = "let text = \"[ring P1]\"; // [ring P2]\n";
    let faults = faults(&[source("runtime/a/README.md", RING)], &[source("runtime/a/lib.rs", code)]);
    assert_eq!(faults, ["runtime/a/README.md: no line cites [ring P1]"]);
}

#[test]
fn steps_without_a_protocols_name_and_steps_defined_twice_are_faults() {
    let nameless = source("runtime/a/README.md", "# The Ring\n- **P1** write\n");
    assert!(faults(&[nameless], &[])[0].contains("the first line is not"));
    let twice = source("runtime/a/README.md", "# ring\n- **P1** a\n- **P1** b\n");
    assert!(faults(&[twice], &[source("runtime/a/lib.rs", "// [ring P1]")])[0].contains("is defined in"));
}

#[test]
fn a_readme_that_refers_to_a_step_that_is_gone_is_a_fault() {
    let other = source("runtime/a/b/README.md", "# bell\nSee `ring` P1, `ring` P7 and `Option` P8.\n");
    let code = source("runtime/a/lib.rs", "// [ring P1] [ring P2]");
    let faults = faults(&[source("runtime/a/README.md", RING), other], &[code]);
    assert_eq!(faults, ["runtime/a/b/README.md: no step `ring` P7"]);
}
