//! Names, labels and keys: what may stand in them, in Kubernetes' words.
//!
//! Object names become host names and paths, so they are those of RFC 1123; a
//! Service's name becomes a variable of the environment too, so RFC 1035 rules
//! out a leading digit. Each check gives the reason or nothing.

/// Why a text is no RFC 1123 label (a Pod's container, a Namespace).
#[must_use]
pub fn dns_label_problem(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some(too_long(63));
    }
    (!is_dns_label(name)).then(|| {
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
         and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
         regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            .to_owned()
    })
}

/// Why a text is no RFC 1123 subdomain (the names of most objects).
#[must_use]
pub fn dns_subdomain_problem(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some(too_long(253));
    }
    (!name.split('.').all(is_dns_label)).then(|| {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
         used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            .to_owned()
    })
}

/// Why a text is no RFC 1035 label (a Service).
#[must_use]
pub fn dns_1035_problem(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some(too_long(63));
    }
    let right = is_dns_label(name) && !name.starts_with(|first: char| first.is_ascii_digit());
    (!right).then(|| {
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
         an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
         'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            .to_owned()
    })
}

/// Why a text is no name of a port (RFC 6335): 15 signs, one of them a letter.
#[must_use]
pub fn port_name_problem(name: &str) -> Option<String> {
    if name.len() > 15 {
        return Some("must be no more than 15 characters".to_owned());
    }
    let signs = |next: char| next.is_ascii_lowercase() || next.is_ascii_digit() || next == '-';
    if !name.chars().all(signs) {
        return Some(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !name.chars().any(|next| next.is_ascii_lowercase()) {
        return Some("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        return Some("must not contain consecutive hyphens".to_owned());
    }
    (name.starts_with('-') || name.ends_with('-'))
        .then(|| "must not begin or end with a hyphen".to_owned())
}

/// Why a text is no key of a label or annotation: `[prefix/]name`.
#[must_use]
pub fn label_key_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    match prefix {
        Some("") => return Some("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if let Some(why) = dns_subdomain_problem(prefix) {
                return Some(format!("prefix part {why}"));
            }
        }
        None => {}
    }
    if name.contains('/') {
        return Some(
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an \
             optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
                .to_owned(),
        );
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > 63 {
        return Some(format!("name part {}", too_long(63)));
    }
    (!is_label_text(name)).then(|| {
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
         end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
         used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            .to_owned()
    })
}

/// Why a text is no value of a label.
#[must_use]
pub fn label_value_problem(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    (!value.is_empty() && !is_label_text(value)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
         '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            .to_owned()
    })
}

/// Why a text is no key of a ConfigMap or Secret: it becomes a file's name.
#[must_use]
pub fn config_key_problem(key: &str) -> Option<String> {
    if key.len() > 253 {
        return Some(too_long(253));
    }
    let signs = |next: char| next.is_ascii_alphanumeric() || "-_.".contains(next);
    if key.is_empty() || !key.chars().all(signs) {
        return Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match key {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ => key
            .starts_with("..")
            .then(|| "must not start with '..'".to_owned()),
    }
}

/// Why a text is no name of a variable of the environment.
///
/// Everything printable but `=` may stand there since Kubernetes 1.32.
#[must_use]
pub fn variable_name_problem(name: &str) -> Option<String> {
    let sign = |next: char| matches!(next, ' '..='~') && next != '=';
    (name.is_empty() || !name.chars().all(sign)).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='"
            .to_owned()
    })
}

fn too_long(bytes: usize) -> String {
    format!("must be no more than {bytes} bytes")
}

fn is_dns_label(name: &str) -> bool {
    let signs = |next: char| next.is_ascii_lowercase() || next.is_ascii_digit() || next == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(signs)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_label_text(text: &str) -> bool {
    let signs = |next: char| next.is_ascii_alphanumeric() || "-_.".contains(next);
    text.chars().all(signs)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::{
        config_key_problem, dns_1035_problem, dns_label_problem, dns_subdomain_problem,
        label_key_problem, label_value_problem, port_name_problem, variable_name_problem,
    };

    #[test]
    fn names_at_the_edges_of_their_rules() {
        type Check = fn(&str) -> Option<String>;
        let long = "a".repeat(63);
        let table: [(Check, &[&str], &[&str]); 8] = [
            (
                dns_label_problem,
                &["a", "0a", "a-b", &long],
                &["", "-a", "a-", "A", "a.b", "a_b"],
            ),
            (
                dns_subdomain_problem,
                &["a.b", "0.a-b"],
                &["", "a..b", ".a", "a.", "A.b"],
            ),
            (dns_1035_problem, &["a", "a0"], &["0a", "", "a.b"]),
            (
                port_name_problem,
                &["http", "a-1"],
                &["", "80", "a--b", "-a", "abcdefghijklmnop", "A"],
            ),
            (
                label_key_problem,
                &["a", "a.io/B_c", "A.b"],
                &["", "/a", "a/", "a/b/c", "_a", "a b"],
            ),
            (
                label_value_problem,
                &["", "A", "a.b_c-d", &long],
                &["-a", "a-", "a b", "a/b"],
            ),
            (
                config_key_problem,
                &["a", ".a", "A_b.c"],
                &["", ".", "..", "..a", "a/b"],
            ),
            (
                variable_name_problem,
                &["A", "a.b-c", "a b"],
                &["", "a=b", "ä"],
            ),
        ];
        for (index, (check, right, wrong)) in table.iter().enumerate() {
            for name in *right {
                assert_eq!(check(name), None, "{index} {name}");
            }
            for name in *wrong {
                assert!(check(name).is_some(), "{index} {name}");
            }
        }
        let long = "a".repeat(64);
        assert!(dns_label_problem(&long).is_some() && label_value_problem(&long).is_some());
    }
}
