//! The registry as observable instruments: read when they are exported, and under the names that `/metrics` has.
//!
//! What a registry holds can be had only as text, so the text it is. The SDK has no observable histograms; one goes out as
//! Prometheus has it, as counters of its buckets with the label `le`, its sum and its count.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Meter},
};
use prometheus_client::{encoding::text::encode_registry, registry::Registry};
use tokio::runtime::Handle;

/// One name, with its samples at the time of reading.
struct Series {
    name: String,
    help: String,
    is_counter: bool,
    samples: Vec<Sample>,
}

struct Sample {
    labels: Vec<KeyValue>,
    value: f64,
}

/// The registry, read once for each export: every instrument takes its own samples, and the first that finds them taken reads anew.
pub(super) struct Readings {
    registry: Arc<Registry>,
    meter: Meter,
    runtime: Handle,
    /// Names that have an instrument.
    met: Mutex<HashSet<String>>,
    left: Mutex<HashMap<String, Vec<Sample>>>,
}

impl Readings {
    /// Must be called inside the runtime.
    pub(super) fn of(registry: &Arc<Registry>, meter: Meter) -> Arc<Self> {
        let runtime = Handle::current();
        let (met, left) = (Mutex::default(), Mutex::default());
        let readings = Arc::new(Self { registry: registry.clone(), meter, runtime, met, left });
        readings.meet();
        readings
    }

    /// Makes an instrument for each name that has come since the last time: those with labels come with their first sample.
    pub(super) fn meet(self: &Arc<Self>) {
        for series in read(&self.registry) {
            if locked(&self.met).insert(series.name.clone()) {
                self.observe(series);
            }
        }
    }

    fn observe(self: &Arc<Self>, Series { name, help, is_counter, .. }: Series) {
        // The meter owns what is called here, and the readings own the meter.
        let (readings, own) = (Arc::downgrade(self), name.clone());
        let observe = move |instrument: &dyn AsyncInstrument<f64>| {
            for Sample { labels, value } in readings.upgrade().map_or_else(Vec::new, |all| all.take(&own)) {
                instrument.observe(value, &labels);
            }
        };
        if is_counter {
            self.meter.f64_observable_counter(name).with_description(help).with_callback(observe).build();
        } else {
            self.meter.f64_observable_gauge(name).with_description(help).with_callback(observe).build();
        }
    }

    fn take(self: &Arc<Self>, name: &str) -> Vec<Sample> {
        let mut left = locked(&self.left);
        if !left.contains_key(name) {
            let all = read(&self.registry);
            if all.iter().any(|series| !locked(&self.met).contains(&series.name)) {
                // They wait for the next export: while one is collected the meter takes no instruments.
                let this = self.clone();
                self.runtime.spawn_blocking(move || this.meet());
            }
            *left = all.into_iter().map(|series| (series.name, series.samples)).collect();
        }
        left.remove(name).unwrap_or_default()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the registry holds now.
fn read(registry: &Registry) -> Vec<Series> {
    let mut text = String::new();
    if encode_registry(&mut text, registry).is_err() {
        debug_assert!(false, "a string takes everything");
    }
    let (mut all, mut help) = (Vec::<Series>::new(), "");
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_name, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            all.extend(suffixes(kind).iter().map(|suffix| Series {
                name: format!("{name}{suffix}"),
                help: help.to_owned(),
                is_counter: kind != "gauge",
                samples: Vec::new(),
            }));
        } else if let Some((name, sample)) = sample(line)
            && let Some(series) = all.iter_mut().rev().find(|series| series.name == name)
        {
            series.samples.push(sample);
        }
    }
    all
}

/// What a kind of metric appends to its name.
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => {
            debug_assert!(false, "a metric of the kind {kind} is not exported");
            &[]
        }
    }
}

/// `name value` or `name{label="word",...} value`.
fn sample(line: &str) -> Option<(&str, Sample)> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, mut rest) = series.split_once('{').unwrap_or((series, ""));
    let mut labels = Vec::new();
    // Words of ours, without quotes in them.
    while let Some((key, after)) = rest.split_once("=\"") {
        let (word, after) = after.split_once('"')?;
        labels.push(KeyValue::new(key.trim_start_matches(',').to_owned(), word.to_owned()));
        rest = after;
    }
    Some((name, Sample { labels, value: value.parse().ok()? }))
}
