//! Reads the text of `/metrics` and says the same in OTLP's words.
//!
//! Source: <https://prometheus.io/docs/specs/om/open_metrics_spec/>,
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>.

use super::spans::attribute;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, metric,
    number_data_point,
};
use std::collections::BTreeMap;

/// Labels in the order in which they are written.
type Labels = Vec<(String, String)>;

/// Since when, and at which moment, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the member was started: what is counted, is counted since then.
    pub started: u64,
    /// When the text was written.
    pub now: u64,
}

/// A family as far as it has been read.
#[derive(Default)]
struct Family {
    name: String,
    help: String,
    kind: String,
    unit: String,
    numbers: Vec<(Labels, f64)>,
    histograms: BTreeMap<Labels, Buckets>,
}

#[derive(Default)]
struct Buckets {
    /// Upper bound and how many are at most that, smallest first.
    at_most: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

/// The numbers of a text.
pub fn metrics_of(text: &str, times: Times) -> Vec<Metric> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(what), Some(name)) = (words.next(), words.next()) else { continue };
            let rest = words.next().unwrap_or_default();
            if families.last().is_none_or(|family| family.name != name) {
                families.push(Family { name: name.to_owned(), ..Family::default() });
            }
            let Some(family) = families.last_mut() else { continue };
            match what {
                "HELP" => rest.trim_end_matches('.').clone_into(&mut family.help),
                "TYPE" => rest.clone_into(&mut family.kind),
                "UNIT" => rest.clone_into(&mut family.unit),
                _ => {}
            }
        } else if let (Some(family), Some(sample)) = (families.last_mut(), Sample::parse(line)) {
            family.take(sample);
        }
    }
    families.into_iter().filter_map(|family| family.metric(times)).collect()
}

/// A line with a number.
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Labels::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (key, after) = rest.split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.push((key.to_owned(), value));
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// What is up to the closing quotation mark, and what is after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

impl Family {
    fn take(&mut self, Sample { name, mut labels, value }: Sample) {
        let suffix = name.strip_prefix(self.name.as_str()).unwrap_or_default();
        if self.kind != "histogram" {
            if matches!(suffix, "" | "_total") {
                self.numbers.push((labels, value));
            }
            return;
        }
        let bound = labels.iter().position(|(key, _)| key == "le").map(|at| labels.remove(at).1);
        let buckets = self.histograms.entry(labels).or_default();
        match (suffix, bound.and_then(|bound| bound.parse::<f64>().ok())) {
            ("_sum", _) => buckets.sum = value,
            ("_count", _) => buckets.count = value as u64,
            ("_bucket", Some(bound)) => buckets.at_most.push((bound, value as u64)),
            _ => {}
        }
    }

    fn metric(self, times: Times) -> Option<Metric> {
        let points = || self.numbers.iter().map(|(labels, value)| number(labels, *value, times)).collect();
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match self.kind.as_str() {
            "counter" => metric::Data::Sum(Sum {
                data_points: points(),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            "gauge" => metric::Data::Gauge(Gauge { data_points: points() }),
            "histogram" => metric::Data::Histogram(Histogram {
                data_points: self.histograms.iter().map(|(labels, b)| b.point(labels, times)).collect(),
                aggregation_temporality: cumulative,
            }),
            _ => return None,
        };
        let unit = if self.unit == "seconds" { "s".to_owned() } else { self.unit };
        Some(Metric { name: self.name, description: self.help, unit, data: Some(data), ..Metric::default() })
    }
}

impl Buckets {
    fn point(&self, labels: &Labels, times: Times) -> HistogramDataPoint {
        let mut below = 0;
        let bucket_counts = self.at_most.iter().map(|(_, at_most)| {
            let count = at_most.saturating_sub(below);
            below = *at_most;
            count
        });
        let bucket_counts = bucket_counts.collect();
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: times.started,
            time_unix_nano: times.now,
            count: self.count,
            sum: Some(self.sum),
            bucket_counts,
            // The last bucket has no bound.
            explicit_bounds: self.at_most.iter().map(|(bound, _)| *bound).filter(|b| b.is_finite()).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| attribute(key, value.clone())).collect()
}

fn number(labels: &Labels, value: f64, times: Times) -> NumberDataPoint {
    // Whole numbers of that size are exact.
    let is_whole = value.fract() == 0.0 && value.abs() < 9e15;
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.started,
        time_unix_nano: times.now,
        value: Some(if is_whole {
            number_data_point::Value::AsInt(value as i64)
        } else {
            number_data_point::Value::AsDouble(value)
        }),
        ..NumberDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use metric::Data;
    use number_data_point::Value;

    const TEXT: &str = r#"# HELP sqlited_requests Requests, by status.
# TYPE sqlited_requests counter
sqlited_requests_total{code="200",odd="a \"b\\\n,}"} 7
sqlited_requests_total{code="404"} 1
# HELP sqlited_lag_seconds How far.
# TYPE sqlited_lag_seconds histogram
# UNIT sqlited_lag_seconds seconds
sqlited_lag_seconds_sum{kind="sql"} 0.75
sqlited_lag_seconds_count{kind="sql"} 5
sqlited_lag_seconds_bucket{le="0.1",kind="sql"} 2
sqlited_lag_seconds_bucket{le="0.2",kind="sql"} 2
sqlited_lag_seconds_bucket{le="+Inf",kind="sql"} 5
# HELP sqlited_term Term.
# TYPE sqlited_term gauge
sqlited_term 3
# HELP sqlited_part Part.
# TYPE sqlited_part gauge
sqlited_part -0.5
# EOF
"#;

    #[test]
    fn the_same_numbers_in_other_words() {
        let metrics = metrics_of(TEXT, Times { started: 1, now: 2 });
        let names: Vec<_> = metrics.iter().map(|m| (m.name.as_str(), m.unit.as_str())).collect();
        assert_eq!(
            names,
            [
                ("sqlited_requests", ""),
                ("sqlited_lag_seconds", "s"),
                ("sqlited_term", ""),
                ("sqlited_part", "")
            ]
        );
        assert_eq!(metrics[0].description, "Requests, by status");
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{:?}", metrics[0]) };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(Value::AsInt(7)));
        assert_eq!((sum.data_points[0].start_time_unix_nano, sum.data_points[0].time_unix_nano), (1, 2));
        let odd = attributes(&vec![("code".into(), "200".into()), ("odd".into(), "a \"b\\\n,}".into())]);
        assert_eq!(sum.data_points[0].attributes, odd);
        let Some(Data::Histogram(histogram)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (5, Some(0.75)));
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[2, 0, 3][..], &[0.1, 0.2][..]));
        assert_eq!(point.attributes, attributes(&vec![("kind".into(), "sql".into())]));
        let values: Vec<_> = metrics[2..]
            .iter()
            .map(|m| match &m.data {
                Some(Data::Gauge(gauge)) => gauge.data_points[0].value.unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(values, [Value::AsInt(3), Value::AsDouble(-0.5)]);
    }
}
