//! `compose.yaml` and the files it mounts.

use serde_json::{Map, Value};

use super::{dockerfile, repository, text, tidegate, yaml};

/// The image of this repository.
const OURS: &str = "tidegate:local";

pub(crate) fn services() -> Map<String, Value> {
    let file = yaml::parse(&text("compose.yaml"));
    file["services"].as_object().expect("services").clone()
}

pub(crate) fn service(name: &str) -> Value {
    services().get(name).expect(name).clone()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |item: &Value| item.as_str().expect("a text").to_owned();
    list.iter().map(text).collect()
}

/// The environment of a service.
pub(crate) fn environment(service: &Value) -> Vec<(String, String)> {
    let none = Map::new();
    let given = service["environment"].as_object().unwrap_or(&none);
    given
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().expect(name).to_owned()))
        .collect()
}

/// That of a container of our image: the image's under the service's.
pub(crate) fn environment_of_ours(name: &str) -> Vec<(String, String)> {
    let mut all = dockerfile::environment();
    all.extend(environment(&service(name)));
    all
}

fn value(environment: &[(String, String)], name: &str) -> String {
    let found = environment.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no {name}")).1.clone()
}

fn seconds(text: &str) -> u64 {
    let number = text.strip_suffix('s').expect("seconds");
    number.parse().expect("a number")
}

#[test]
fn our_services_have_an_environment_that_is_accepted() {
    for (name, service) in services() {
        if service["image"] != OURS {
            continue;
        }
        let mut environment = environment_of_ours(&name);
        let accepted = tidegate(&["validate"], &environment);
        assert_eq!(accepted.code, 0, "{name}: {accepted:?}");
        let command = texts(&service["command"]);
        let command = if command.is_empty() {
            dockerfile::exec_form(&dockerfile::of_image("CMD"))
        } else {
            command
        };
        let help = tidegate(&[&command[0], "--help"], &[]);
        assert_eq!(help.code, 0, "{name}: {command:?}");
        // What makes the check able to fail.
        environment.push(("TIDEGATE__LIMITS__MEMORYS".to_owned(), "1MiB".to_owned()));
        assert_eq!(tidegate(&["validate"], &environment).code, 78);
    }
}

#[test]
fn our_services_have_no_rights_they_do_not_need() {
    let mut ours = 0;
    for (name, service) in services() {
        if service["image"] != OURS {
            continue;
        }
        ours += 1;
        assert_eq!(service["read_only"], "true", "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        let options = texts(&service["security_opt"]);
        assert_eq!(options, ["no-new-privileges:true"], "{name}");
        let writes = texts(&service["volumes"]);
        assert!(writes.iter().all(|one| one.ends_with(":ro")), "{name}");
    }
    assert_eq!(ours, 2);
}

#[test]
fn every_port_is_this_machines_alone() {
    let mut published = 0;
    for (name, service) in services() {
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            published += 1;
        }
    }
    assert_eq!(published, 5);
}

#[test]
fn what_is_waited_for_can_come() {
    let services = services();
    let mut waits = 0;
    for (name, service) in &services {
        let none = Map::new();
        for (on, wait) in service["depends_on"].as_object().unwrap_or(&none) {
            waits += 1;
            let other = services
                .get(on)
                .unwrap_or_else(|| panic!("{name} waits for {on}, which is not there"));
            match wait["condition"].as_str().expect("a condition") {
                "service_healthy" => {
                    assert!(other["healthcheck"]["test"].is_array(), "{on} has no check");
                }
                // One that starts anew for ever never is complete.
                "service_completed_successfully" => assert!(other["restart"].is_null(), "{on}"),
                // Only Prometheus has something to see in a relay that is not well.
                "service_started" => assert_eq!([&**name, on], ["prometheus", "tidegate"]),
                strange => panic!("{name}: {strange}"),
            }
        }
    }
    assert_eq!(waits, 8);
}

#[test]
fn what_is_mounted_is_there() {
    let declared = yaml::parse(&text("compose.yaml"))["volumes"].clone();
    let mut mounted = 0;
    for (name, service) in services() {
        for volume in texts(&service["volumes"]) {
            let (source, target) = volume.split_once(':').expect("a target");
            assert!(target.starts_with('/'), "{name}: {volume}");
            let Some(path) = source.strip_prefix("./") else {
                assert!(!declared[source].is_string(), "{source}");
                assert!(declared.as_object().expect("volumes").contains_key(source));
                continue;
            };
            mounted += 1;
            assert!(target.ends_with(":ro"), "{name}: {volume}");
            assert!(repository(path).exists(), "{name}: {path} is not there");
        }
    }
    assert_eq!(mounted, 6);
}

#[test]
fn all_speak_of_the_same_things() {
    let ours = environment(&service("tidegate"));
    let postgres = environment(&service("postgres"));
    let [user, password, database] =
        ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"].map(|name| value(&postgres, name));
    let url = format!("postgres://{user}:{password}@postgres:5432/{database}");
    for name in ["tidegate", "migrate"] {
        assert_eq!(value(&environment(&service(name)), "DATABASE_URL"), url);
    }
    for name in ["setup", "publisher"] {
        let environment = environment(&service(name));
        let [host, role, secret, base] =
            ["PGHOST", "PGUSER", "PGPASSWORD", "PGDATABASE"].map(|name| value(&environment, name));
        assert_eq!(
            [&*host, &role, &secret, &base],
            ["postgres", &user, &password, &database]
        );
    }

    let endpoint = value(&ours, "TIDEGATE__KINESIS__ENDPOINT_URL");
    assert_eq!(endpoint, "http://kinesis:4568");
    let stream = service("stream");
    let job = environment(&stream);
    assert_eq!(value(&job, "AWS_ENDPOINT_URL"), endpoint);
    assert_eq!(
        value(&job, "AWS_DEFAULT_REGION"),
        value(&ours, "AWS_REGION")
    );
    let script = texts(&stream["command"]).join("\n");
    let setup = text("deploy/compose/setup.sql");
    let name = setup.split("\"stream_name\": \"").nth(1).expect("a stream");
    let name = name.split('"').next().expect("its name");
    let words: Vec<&str> = script.split_whitespace().collect();
    let named: Vec<&str> = words
        .windows(2)
        .filter(|pair| pair[0] == "--stream-name")
        .map(|pair| pair[1])
        .collect();
    assert_eq!(named, [name; 3]);

    let prometheus = text("deploy/compose/prometheus.yml");
    let target = format!("\"tidegate:{}\"", dockerfile::of_image("EXPOSE"));
    assert!(prometheus.contains(&target), "no {target} in {prometheus}");
    let rules = texts(&service("prometheus")["volumes"]);
    let rules = rules
        .iter()
        .any(|one| one.ends_with(":/etc/prometheus/alerts:ro"));
    assert!(rules && prometheus.contains("- /etc/prometheus/alerts/*.yaml"));
}

#[test]
fn the_relay_has_the_time_to_drain_and_the_images_check() {
    let relay = service("tidegate");
    let (command, _) = dockerfile::health_check();
    let mut test = vec!["CMD".to_owned()];
    test.extend(command);
    assert_eq!(texts(&relay["healthcheck"]["test"]), test);
    // The example file shows the defaults.
    let example = text("configs/tidegate.toml");
    let grace = example
        .lines()
        .find_map(|line| line.strip_prefix("drain_grace = \""))
        .expect("a grace");
    let stop = relay["stop_grace_period"].as_str().expect("a time");
    assert!(
        seconds(stop) >= seconds(grace.trim_end_matches('"')) + 15,
        "{stop}"
    );
    assert_eq!(relay["user"], dockerfile::of_image("USER"));
}
