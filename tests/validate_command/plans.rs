//! `validate --diff`.

use serde_json::json;

use super::*;

const OLD: &str = r#"
[admin]
listen = "127.0.0.1:9464"
[limits]
memory = "256MiB"
[[databases]]
name = "orders"
url = "postgres://u:hunter2@h/d"
[[databases]]
name = "stock"
url = "postgres://h/stock"
[[tenants]]
name = "acme"
weight = 2
[[pipelines]]
name = "kept"
outbox = "events"
database = "stock"
stream_name = "s"
[[pipelines]]
name = "changed"
outbox = "events"
database = "stock"
stream_name = "s"
tenant = "acme"
[[pipelines]]
name = "moved"
outbox = "events"
database = "stock"
stream_name = "s"
[[pipelines]]
name = "gone"
outbox = "events"
database = "stock"
stream_name = "s"
[[pipelines]]
name = "of-orders"
outbox = "events"
database = "orders"
stream_name = "s"
"#;

fn diff(new: &str, more: &[&str]) -> Said {
    let folder = Folder::new();
    let old = folder.file("old.toml", OLD);
    let old = old.to_str().expect("text");
    let arguments = [&["--diff", "--against", old], more].concat();
    validate(new, &arguments)
}

fn changed() -> String {
    let last = OLD.rfind("[[pipelines]]\nname = \"gone\"").expect("there");
    let of_orders = OLD
        .rfind("[[pipelines]]\nname = \"of-orders\"")
        .expect("there");
    let text = format!(
        "{}{}[[pipelines]]\nname = \"new\"\noutbox = \"o\"\ndatabase = \"stock\"\n\
         stream_name = \"s\"\n",
        &OLD[..last],
        &OLD[of_orders..]
    );
    text.replace("256MiB", "512MiB")
        .replace("weight = 2", "weight = 3")
        .replace("hunter2", "hunter3")
        .replace(
            "name = \"moved\"\noutbox",
            "name = \"moved\"\npartition_key = \"{event_id}\"\noutbox",
        )
}

#[test]
fn a_plan_can_be_read_in_ten_seconds() {
    let said = diff(&changed(), &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let expected = "\
a reload would change:
  ! database orders            drains and reconnects: databases.url
  ~ limits.memory              256MiB -> 512MiB
  ! pipeline orders/of-orders  drains and restarts: databases.url
  ~ pipeline stock/changed     changes while it runs: tenants.weight
  - pipeline stock/gone        drains and stops
  ! pipeline stock/moved       drains and restarts: partition_key
  + pipeline stock/new         starts
1 pipeline(s) not touched; pipelines that databases define are not looked at
";
    assert_eq!(said.out, expected);
}

#[test]
fn a_plan_is_one_json_object() {
    let json = diff(&changed(), &["--output", "json"]).json();
    assert_eq!(
        (&json["ok"], &json["changes"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        json["settings"],
        json!([{"key": "limits.memory", "from": "256MiB", "to": "512MiB"}])
    );
    assert_eq!(
        json["databases"],
        json!([{"database": "orders", "step": "restart", "because": ["databases.url"]}])
    );
    let step = |name: &str| {
        let pipelines = json["pipelines"].as_array().expect("a list");
        let found = pipelines.iter().find(|one| one["pipeline"] == name);
        found.expect("it is there").clone()
    };
    assert_eq!(
        step("moved"),
        json!({"database": "stock", "pipeline": "moved", "step": "restart",
               "because": ["partition_key"]})
    );
    assert_eq!(step("kept")["step"], "keep");
    assert_eq!(step("changed")["keys"], json!(["tenants.weight"]));
    assert!(!json.to_string().contains("hunter"), "no secrets");
}

#[test]
fn the_same_file_changes_nothing() {
    let said = diff(OLD, &[]);
    assert_eq!(said.code, 0);
    let expected = "a reload would change nothing\n5 pipeline(s) not touched; ";
    assert!(said.out.starts_with(expected), "{}", said.out);
    let json = diff(OLD, &["--output", "json"]).json();
    assert_eq!(json["changes"], false);
}

#[test]
fn what_a_running_relay_refuses_is_named_with_its_line() {
    let new = OLD.replace("127.0.0.1:9464", "0.0.0.0:80");
    let said = diff(&new, &[]);
    assert_eq!(said.code, 78);
    let expected = "\
a running relay would refuse this reload and change nothing:
  line 3: admin.listen: changed from 127.0.0.1:9464 to 0.0.0.0:80; expected no change, \
or a restart of the process: a running relay does not leave its port
5 pipeline(s) not touched; ";
    assert!(said.out.starts_with(expected), "{}", said.out);
    let json = diff(&new, &["--output", "json"]).json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["refused"][0]["line"], 3);
}

#[test]
fn whichever_file_is_wrong_is_named() {
    let said = diff("[admin]\nlisten = 1\n", &[]);
    assert_eq!(said.code, 78);
    assert!(said.err.contains("line 2: admin.listen"), "{}", said.err);
    let missing = ["--diff", "--against", "/no/such.toml"];
    let said = validate(OLD, &missing);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("--against /no/such.toml"), "{}", said.err);
}
