use super::*;

fn password(username: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

#[test]
fn mirrors_come_first_and_keep_their_own_credentials() {
    let config = RegistriesConfig::parse(
        r#"
        [registry."docker.io"]
        mirrors = ["http://127.0.0.1:5000/", "https://mirror.example/hub"]
        username = "hub"
        password = "hub-secret"
        [registry."127.0.0.1:5000"]
        username = "local"
        password = "local-secret"
        "#,
    )
    .unwrap();
    let given = password("caller", "caller-secret");
    let endpoints = config.endpoints("docker.io", given.as_ref()).unwrap();
    let urls: Vec<_> = endpoints
        .iter()
        .map(|endpoint| &endpoint.urls[..])
        .collect();
    assert_eq!(
        urls,
        [
            ["http://127.0.0.1:5000"],
            ["https://mirror.example/hub"],
            ["https://registry-1.docker.io"]
        ]
    );
    assert_eq!(endpoints[0].credentials, password("local", "local-secret"));
    assert_eq!(endpoints[1].credentials, None);
    assert_eq!(endpoints[2].credentials, given);
    let endpoints = config.endpoints("docker.io", None).unwrap();
    assert_eq!(endpoints[2].credentials, password("hub", "hub-secret"));
}

#[test]
fn plain_http_is_tried_only_where_it_is_allowed() {
    let text = "[registry.\"127.0.0.1:5000\"]\ninsecure = true\n";
    let config = RegistriesConfig::parse(text).unwrap();
    let endpoints = config.endpoints("127.0.0.1:5000", None).unwrap();
    assert_eq!(endpoints[0].urls.len(), 2);
    let endpoints = config.endpoints("127.0.0.1:6000", None).unwrap();
    assert_eq!(endpoints[0].urls, ["https://127.0.0.1:6000"]);
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, part) in [
        ("[registry.\"a\"]\nmirors = []", "mirors"),
        ("[registry.\"a\"]\nmirrors = [\"b:5000\"]", "http://"),
        ("[registry.\"a\"]\nusername = \"b\"", "password"),
        ("registry = 1", "registry"),
    ] {
        let message = RegistriesConfig::parse(text).unwrap_err().chain();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn docker_logins_are_found_and_secrets_are_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    // "me:secret" and "hub:hubsecret" in base 64.
    let text = r#"{"auths": {
        "127.0.0.1:5000": {"auth": "bWU6c2VjcmV0"},
        "https://index.docker.io/v1/": {"auth": "aHViOmh1YnNlY3JldA=="},
        "tokens.example": {"identitytoken": "long"}
    }}"#;
    std::fs::write(directory.path().join("config.json"), text).unwrap();
    let config = RegistriesConfig {
        docker_config: Some(directory.path().to_owned()),
        ..RegistriesConfig::default()
    };
    let found = config.credentials("127.0.0.1:5000").unwrap();
    assert_eq!(found, password("me", "secret"));
    assert!(!format!("{found:?}").contains("secret"));
    let found = config.credentials("docker.io").unwrap();
    assert_eq!(found, password("hub", "hubsecret"));
    assert_eq!(config.credentials("other.example").unwrap(), None);
    std::fs::write(directory.path().join("config.json"), "{").unwrap();
    let error = config.credentials("docker.io").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
}
