//! The program as a value.

use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

use super::*;
use crate::engine::spec::tests::Fixture;

fn image(entrypoint: &[&str], cmd: &[&str], signal: Option<&str>) -> ImageConfiguration {
    let owned = |list: &[&str]| {
        list.iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let mut config = ConfigBuilder::default()
        .entrypoint(owned(entrypoint))
        .cmd(owned(cmd))
        .env(vec!["PATH=/image".to_owned(), "A=image".to_owned()])
        .working_dir("srv")
        .build()
        .unwrap();
    config.set_stop_signal(signal.map(str::to_owned));
    ImageConfigurationBuilder::default()
        .config(config)
        .build()
        .unwrap()
}

fn request(command: &[&str], args: &[&str]) -> v1::ContainerConfig {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    v1::ContainerConfig {
        command: owned(command),
        args: owned(args),
        ..Default::default()
    }
}

#[test]
fn command_and_args_follow_the_table() {
    let image = image(&["/entry"], &["cmd"], None);
    let run = |command: &[&str], args: &[&str]| {
        plan_arguments(&request(command, args), &image)
            .unwrap()
            .join(" ")
    };
    assert_eq!(run(&[], &[]), "/entry cmd");
    assert_eq!(run(&["/c"], &[]), "/c");
    assert_eq!(run(&[], &["a"]), "/entry a");
    assert_eq!(run(&["/c"], &["a"]), "/c a");
}

#[test]
fn nothing_to_run_is_an_error() {
    let empty = ImageConfiguration::default();
    let error = plan_arguments(&request(&[], &[]), &empty).unwrap_err();
    assert!(error.to_string().contains("nothing to run"), "{error}");
    let error = plan_arguments(&request(&["a\0b"], &[]), &empty).unwrap_err();
    assert!(error.to_string().contains("NUL"), "{error}");
}

#[test]
fn the_request_overrides_the_image_which_overrides_the_defaults() {
    let mut fixture = Fixture::new();
    fixture.image = image(&["/entry"], &[], None);
    fixture.sandbox.hostname = "web".to_owned();
    fixture.container.envs = vec![v1::KeyValue {
        key: "A".to_owned(),
        value: b"request=1".to_vec(),
    }];
    let process = plan_process(&fixture.inputs(), Privilege::Confined).unwrap();
    assert_eq!(
        process.env().clone().unwrap(),
        ["PATH=/image", "HOSTNAME=web", "HOME=/root", "A=request=1"]
    );
    assert_eq!(process.cwd().to_str(), Some("/srv"));
    assert_eq!(process.rlimits(), &None);
}

#[test]
fn a_variable_that_is_not_text_is_refused() {
    let mut fixture = Fixture::new();
    for (key, value, part) in [
        ("A=B", b"x".to_vec(), "not a variable's name"),
        ("A", vec![0xff], "not UTF-8"),
        ("A", b"x\0y".to_vec(), "NUL"),
    ] {
        fixture.container.envs = vec![v1::KeyValue {
            key: key.to_owned(),
            value,
        }];
        let error = plan_process(&fixture.inputs(), Privilege::Confined).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn the_oom_score_is_no_lower_than_allowed() {
    let with = |value: i64| v1::ContainerConfig {
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources {
                oom_score_adj: value,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(oom_score_adj(&with(-997), 300).unwrap(), Some(300));
    assert_eq!(oom_score_adj(&with(900), 300).unwrap(), Some(900));
    assert_eq!(oom_score_adj(&request(&[], &[]), 300).unwrap(), None);
    assert!(oom_score_adj(&with(2000), 0).is_err());
}

#[test]
fn every_signal_of_the_cri_has_a_number() {
    let image = image(&[], &[], Some("SIGQUIT"));
    for number in 1..=65 {
        let config = v1::ContainerConfig {
            stop_signal: number,
            ..Default::default()
        };
        assert!(stop_signal(&config, &image).unwrap() >= 1, "{number}");
    }
    let of = |signal: v1::Signal| {
        let config = v1::ContainerConfig {
            stop_signal: signal as i32,
            ..Default::default()
        };
        stop_signal(&config, &image).unwrap()
    };
    assert_eq!(of(v1::Signal::RuntimeDefault), 3);
    assert_eq!(of(v1::Signal::Sigterm), 15);
    assert_eq!(of(v1::Signal::Sigrtminplus3), 37);
    assert_eq!(of(v1::Signal::Sigrtmaxminus1), 63);
    assert_eq!(of(v1::Signal::Sigrtmax), 64);
}

#[test]
fn signals_are_read_in_every_spelling() {
    assert_eq!(parse_signal("15"), Some(15));
    assert_eq!(parse_signal("term"), Some(15));
    assert_eq!(parse_signal("SIGRTMIN+3"), Some(37));
    assert_eq!(parse_signal("0"), None);
    assert_eq!(parse_signal("65"), None);
    assert_eq!(parse_signal("SIGRTMIN+31"), None);
    assert_eq!(parse_signal("SIGNOTHING"), None);
    let bad = image(&[], &[], Some("SIGNOTHING"));
    let error = stop_signal(&request(&[], &[]), &bad).unwrap_err();
    assert!(error.to_string().contains("SIGNOTHING"), "{error}");
}
