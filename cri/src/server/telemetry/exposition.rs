//! Numbers as Prometheus reads them: its text format, or OpenMetrics.
//!
//! The two differ in little: OpenMetrics names a counter's family without
//! `_total` and ends with a line that says so, by which a reader knows that
//! nothing was cut off.
//!
//! Read more: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://github.com/prometheus/OpenMetrics>.

use std::fmt::Write as _;

use super::numbers::{BOUNDS, Histogram};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Form {
    /// What a client that sends this `Accept` reads best.
    pub(super) fn choose(accept: &str) -> Form {
        match accept.contains("application/openmetrics-text") {
            true => Form::OpenMetrics,
            false => Form::Text,
        }
    }

    /// What the answer says it is.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Labels of a sample.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page being written.
#[derive(Debug)]
pub(super) struct Page {
    form: Form,
    text: String,
}

impl Page {
    pub(super) fn new(form: Form) -> Page {
        Page {
            form,
            text: String::new(),
        }
    }

    /// What only grows. `name` ends in `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, f64)]) {
        let family = match self.form {
            Form::Text => name,
            Form::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        };
        self.family(family, "counter", help);
        for (labels, value) in samples {
            self.sample(name, labels, *value);
        }
    }

    /// What goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, f64)]) {
        self.family(name, "gauge", help);
        for (labels, value) in samples {
            self.sample(name, labels, *value);
        }
    }

    /// How long something took.
    pub(super) fn histogram(&mut self, name: &str, help: &str, series: &[(Labels<'_>, Histogram)]) {
        self.family(name, "histogram", help);
        for (labels, histogram) in series {
            let mut below = 0;
            for (place, count) in histogram.buckets.iter().enumerate() {
                below += count;
                let bound = BOUNDS.get(place).map_or("+Inf".to_owned(), f64::to_string);
                let mut labels = labels.to_vec();
                labels.push(("le", &bound));
                self.sample(&format!("{name}_bucket"), &labels, below as f64);
            }
            self.sample(&format!("{name}_sum"), labels, histogram.sum);
            self.sample(&format!("{name}_count"), labels, below as f64);
        }
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let line = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.text.push_str(&line);
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.text.push_str(name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let begin = if place == 0 { '{' } else { ',' };
            // A text does not fail to grow.
            let _ = write!(self.text, "{begin}{label}=\"{}\"", escape(value));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(form: Form) -> String {
        let mut page = Page::new(form);
        page.counter("calls_total", "Calls.", &[(&[("code", "a\"b")], 2.0)]);
        page.gauge("pods", "Pods.", &[(&[], 1.5)]);
        let mut histogram = Histogram::default();
        histogram.buckets[0] = 1;
        histogram.buckets[BOUNDS.len()] = 1;
        histogram.sum = 70.25;
        page.histogram("took_seconds", "Time.", &[(&[("call", "x")], histogram)]);
        page.finish()
    }

    #[test]
    fn both_forms_say_the_same() {
        let text = page(Form::Text);
        assert!(text.starts_with(
            "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{code=\"a\\\"b\"} 2\n"
        ));
        assert!(text.contains("\npods 1.5\n"));
        assert!(text.contains("\ntook_seconds_bucket{call=\"x\",le=\"0.0005\"} 1\n"));
        assert!(text.contains("\ntook_seconds_bucket{call=\"x\",le=\"60\"} 1\n"));
        assert!(text.contains("\ntook_seconds_bucket{call=\"x\",le=\"+Inf\"} 2\n"));
        assert!(
            text.ends_with(
                "took_seconds_sum{call=\"x\"} 70.25\ntook_seconds_count{call=\"x\"} 2\n"
            )
        );
        let open = page(Form::OpenMetrics);
        assert!(open.starts_with("# HELP calls Calls.\n# TYPE calls counter\ncalls_total{"));
        assert!(open.ends_with("# EOF\n"));
        assert_eq!(
            Form::choose("application/openmetrics-text;version=1.0.0,*/*;q=0.1"),
            Form::OpenMetrics
        );
        assert_eq!(Form::choose("*/*"), Form::Text);
    }
}
