//! Writes metrics of one kind after the other, each with its description even where there is no value, so that a dashboard
//! can tell "none" from "unknown".

use std::borrow::Cow;
use std::fmt::Error;

use petnet_storage::Spread;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::record::meters::Amount;

/// Name and value of a label.
pub(super) type Label<'a> = (&'static str, Cow<'a, str>);

pub(super) fn label<'a>(name: &'static str, value: &'a str) -> Label<'a> {
    (name, Cow::Borrowed(value))
}

/// Writes metrics. Names are given without their unit, and counters without `_total`: both are added.
pub(super) struct MetricsWriter<'a>(pub(super) DescriptorEncoder<'a>);

impl MetricsWriter<'_> {
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[Label]) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels.to_vec())
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: f64,
    ) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Iterator<Item = (Vec<Label<'a>>, f64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeCounterValue + Copy,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Iterator<Item = (Vec<Label<'a>>, u64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// Writes `NAME_messages` and `NAME_bytes`.
    pub(super) fn amount(&mut self, name: &str, of: &str, amount: &Amount) -> Result<(), Error> {
        let messages = format!("{name}_messages");
        self.counter(&messages, &format!("Messages {of}"), None, amount.messages())?;
        self.counter(name, &format!("Payload of messages {of}"), Some(&Unit::Bytes), amount.bytes())
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        spread: &Spread,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        if spread.counts.is_empty() {
            return Ok(());
        }
        let bounds = spread.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(spread.counts.iter().copied()).collect();
        metric.encode_histogram::<NoLabelSet>(spread.sum, spread.count(), &buckets, None)
    }

    /// One series for each of `states`: 1 for the one that applies, 0 for the others.
    pub(super) fn states(
        &mut self,
        name: &str,
        help: &str,
        labels: &[Label],
        states: &[&str],
        now: &str,
    ) -> Result<(), Error> {
        self.state_sets(name, help, states, [(labels.to_vec(), now)].into_iter())
    }

    /// Series for each of `states`, for many items.
    pub(super) fn state_sets<'a>(
        &mut self,
        name: &str,
        help: &str,
        states: &[&str],
        each: impl Iterator<Item = (Vec<Label<'a>>, &'a str)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, now) in each {
            for state in states {
                let mut labels = labels.clone();
                labels.push(label("state", state));
                metric.encode_family(&labels)?.encode_gauge(&f64::from(u8::from(*state == now)))?;
            }
        }
        Ok(())
    }
}
