//! The Dockerfile and `.dockerignore`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{repository, text, tidegate};

/// An instruction, its lines joined: `COPY` and `src src`.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) name: String,
    pub(crate) rest: String,
}

/// The instructions, and where the stage of the image itself begins.
pub(crate) fn instructions() -> (Vec<Instruction>, usize) {
    let file = text("Dockerfile");
    let mut all = Vec::new();
    let mut open = String::new();
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        if let Some(begun) = line.strip_suffix('\\') {
            open.push_str(begun);
            continue;
        }
        open.push_str(line);
        if let Some((name, rest)) = open.trim().split_once(' ') {
            let rest: Vec<&str> = rest.split_whitespace().collect();
            all.push(Instruction {
                name: name.to_owned(),
                rest: rest.join(" "),
            });
        }
        open.clear();
    }
    let last = all.iter().rposition(|one| one.name == "FROM");
    (all, last.expect("a stage"))
}

/// What an instruction of the image itself says.
pub(crate) fn of_image(name: &str) -> String {
    let (all, start) = instructions();
    let mut found = all[start..].iter().filter(|one| one.name == name);
    let said = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "a second {name}");
    said.rest.clone()
}

/// The words of an instruction in exec form.
pub(crate) fn exec_form(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("not in exec form: {text}"))
}

/// The environment that the image gives.
pub(crate) fn environment() -> Vec<(String, String)> {
    let said = of_image("ENV");
    let pairs = said
        .split(' ')
        .map(|pair| pair.split_once('=').expect(pair));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The command of its `HEALTHCHECK`, and the options before it.
pub(crate) fn health_check() -> (Vec<String>, String) {
    let said = of_image("HEALTHCHECK");
    let (options, command) = said.split_once(" CMD ").expect("a command");
    (exec_form(command), options.to_owned())
}

/// What is copied from the repository.
fn copied() -> BTreeSet<String> {
    let (all, _) = instructions();
    let copies = all.iter().filter(|one| one.name == "COPY");
    let mut sources = BTreeSet::new();
    for copy in copies.filter(|copy| !copy.rest.starts_with("--from=")) {
        let words: Vec<&str> = copy.rest.split(' ').collect();
        let (_, from) = words.split_last().expect("a destination");
        sources.extend(from.iter().map(|source| (*source).to_owned()));
    }
    sources
}

fn argument(name: &str) -> String {
    let file = text("Dockerfile");
    let line = file
        .lines()
        .find_map(|line| line.strip_prefix(&format!("ARG {name}=")));
    line.unwrap_or_else(|| panic!("no default of {name}"))
        .to_owned()
}

#[test]
fn what_is_copied_is_there_and_nothing_else_goes_to_the_builder() {
    let copied = copied();
    for source in &copied {
        assert!(
            repository(source).exists(),
            "COPY {source}: it is not there"
        );
    }
    let ignore = text(".dockerignore");
    let mut patterns = ignore.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(patterns.next(), Some("*"), "everything is left out first");
    let kept: BTreeSet<String> = patterns
        .map(|pattern| pattern.strip_prefix('!').expect(pattern).to_owned())
        .collect();
    assert_eq!(kept, copied);
}

/// Files that the program has built in must be copied as well.
#[test]
fn what_the_program_includes_is_copied() {
    let copied = copied();
    let mut included = BTreeSet::new();
    let mut folders = vec![repository("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            // The feature `demo` is not built, nor are tests.
            if path.is_dir() && name != "demo" && name != "tests" {
                folders.push(path);
            } else if path.is_file() && name != "tests.rs" {
                included.extend(includes(&path));
            }
        }
    }
    for known in ["migrations", "docs/runbooks"] {
        assert!(included.contains(Path::new(known)), "{included:?}");
    }
    for path in included {
        assert!(
            copied.iter().any(|source| path.starts_with(source)),
            "src includes {}, which the Dockerfile does not copy",
            path.display()
        );
    }
}

/// The files that a source file includes outside its tests, from the repository's top.
fn includes(source: &Path) -> Vec<PathBuf> {
    let code = std::fs::read_to_string(source).expect("a source file");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let top = repository("");
    let folder = source.parent().expect("a folder");
    let mut found = Vec::new();
    for (marker, from) in [
        ("include_str!(\"", folder),
        // Of several files its folder.
        ("include_str!(concat!(\"", folder),
        ("include_bytes!(\"", folder),
        ("migrate!(\"", &*top),
    ] {
        for (start, _) in code.match_indices(marker) {
            let path = code[start + marker.len()..].split('"').next();
            let mut whole = PathBuf::new();
            for part in from.join(path.expect("a path")).components() {
                match part {
                    Component::ParentDir => assert!(whole.pop()),
                    Component::CurDir => {}
                    Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                        whole.push(part);
                    }
                }
            }
            found.push(whole.strip_prefix(&top).expect("inside").to_owned());
        }
    }
    found
}

#[test]
fn both_bases_are_arguments_and_the_compiler_is_new_enough() {
    let (all, last) = instructions();
    let bases: Vec<&str> = all
        .iter()
        .filter(|one| one.name == "FROM")
        .map(|one| &*one.rest)
        .collect();
    assert_eq!(bases, ["${BUILD_IMAGE} AS build", "${RUNTIME_IMAGE}"]);
    assert_eq!(all[last].rest, "${RUNTIME_IMAGE}");
    let manifest = text("Cargo.toml");
    let wanted = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""))
        .expect("a version")
        .trim_end_matches('"');
    let image = argument("BUILD_IMAGE");
    assert!(image.contains(&format!("rust:{wanted}-")), "{image}");
    let (build, runtime) = (image, argument("RUNTIME_IMAGE"));
    let documentation = text("docs/container.md");
    for (name, image) in [("BUILD_IMAGE", &build), ("RUNTIME_IMAGE", &runtime)] {
        let row = format!("| `{name}` | `{image}` |");
        assert!(documentation.contains(&row), "no {row}");
    }
    assert!(
        build.contains("bookworm") && runtime.contains("debian12"),
        "two glibc: {build}, {runtime}"
    );
}

#[test]
fn the_production_build_is_built_from_the_lock_file() {
    let (all, _) = instructions();
    let builds: Vec<&str> = all
        .iter()
        .flat_map(|one| one.rest.split("&&"))
        .map(str::trim)
        .filter(|command| command.starts_with("cargo build"))
        .collect();
    assert_eq!(builds, ["cargo build --release --locked"; 2]);
}

#[test]
fn the_image_runs_without_root_and_without_a_shell() {
    assert_eq!(of_image("USER"), "65532:65532");
    assert_eq!(of_image("STOPSIGNAL"), "SIGTERM");
    assert_eq!(exec_form(&of_image("ENTRYPOINT")), ["/tidegate"]);
    assert_eq!(exec_form(&of_image("CMD")), ["run"]);
    let (all, start) = instructions();
    let runs = all[start..].iter().any(|one| one.name == "RUN");
    assert!(!runs, "nothing can RUN in an image without a shell");
    let labels = of_image("LABEL");
    for label in ["title", "description", "licenses", "version", "revision"] {
        let label = format!("org.opencontainers.image.{label}=");
        assert!(labels.contains(&label), "no {label} in {labels}");
    }
    let built = argument("VERSION");
    assert_eq!(built, "unknown", "scripts/build-image gives it");
}

#[test]
fn its_environment_is_accepted_and_its_port_is_the_one_it_exposes() {
    let mut environment = environment();
    let listen = environment
        .iter()
        .find_map(|(name, value)| (name == "TIDEGATE__ADMIN__LISTEN").then(|| value.clone()));
    assert_eq!(listen, Some(format!("0.0.0.0:{}", of_image("EXPOSE"))));
    environment.push(("DATABASE_URL".to_owned(), "postgres://a:b@c/d".to_owned()));
    let accepted = tidegate(&["validate"], &environment);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    environment.push(("TIDEGATE__ADMIN__LISTENS".to_owned(), "x".to_owned()));
    assert_eq!(tidegate(&["validate"], &environment).code, 78);
}

#[test]
fn its_health_check_says_why_before_the_engine_gives_up() {
    let (command, options) = health_check();
    assert_eq!(command, ["/tidegate", "healthcheck"]);
    assert!(options.contains("--timeout=5s"), "{options}");
    let help = tidegate(&["healthcheck", "--help"], &[]);
    assert!(help.out.contains("[default: 3s]"), "{help:?}");
}
