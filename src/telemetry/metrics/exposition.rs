//! The exposition of figures in both text formats; the only file that names the crate of Prometheus.
//!
//! Why: figures are atomics of our own, so the crate is needed for what it must not be written twice: names, escapes, the
//! differences between the formats.
//!
//! Invariants: the name of a counter is given without `_total`, which the format appends. Base units: seconds, bytes.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, GaugeValueEncoder, NoLabelSet,
    prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::{Metrics, ServerState};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The value of a counter or gauge.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// None is what this node does not know.
impl From<Option<u64>> for Number {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::Real(f64::NAN), Self::Whole)
    }
}

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match *self {
            Self::Whole(value) => EncodeGaugeValue::encode(&value, encoder),
            Self::Real(value) => EncodeGaugeValue::encode(&value, encoder),
        }
    }
}

impl EncodeCounterValue for Number {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match *self {
            Self::Whole(value) => EncodeCounterValue::encode(&value, encoder),
            Self::Real(value) => EncodeCounterValue::encode(&value, encoder),
        }
    }
}

/// The labels of a series.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// What figures are written to.
pub(super) struct Exposition<'a>(DescriptorEncoder<'a>);

impl Exposition<'_> {
    /// Writes a counter.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Into<Number>) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, f64>(&value.into(), None)
    }

    /// Writes the counters of one name.
    pub fn counters<'l, V: Into<Number>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        series.into_iter().try_for_each(|(labels, value)| {
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value.into(), None)
        })
    }

    /// Writes a gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Into<Number>) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value.into())
    }

    /// Writes the gauges of one name.
    pub fn gauges<'l, V: Into<Number>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        series.into_iter().try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value.into()))
    }

    /// Writes a histogram.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let (sum, count, buckets) = histogram.read();
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    /// Writes the histograms of one name.
    pub fn histograms<'l, 'h>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, &'h Histogram)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        series.into_iter().try_for_each(|(labels, histogram)| {
            let (sum, count, buckets) = histogram.read();
            encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }
}

/// All figures, as the crate asks for them.
#[derive(Debug)]
struct Collected(Arc<Metrics>, ServerState);

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Exposition(encoder), &self.1)
    }
}

/// Returns all figures as text.
pub(super) fn encode(metrics: &Arc<Metrics>, format: Format, state: ServerState) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(Arc::clone(metrics), state)));
    let mut body = String::new();
    let encoded = match format {
        Format::Text => prometheus_text::encode(&mut body, &registry),
        Format::OpenMetrics => text::encode(&mut body, &registry),
    };
    encoded.expect("writing to a string does not fail");
    body
}
