//! Sends to an OpenTelemetry collector (OTLP over HTTP) what `/metrics` shows, and a span for each session that has ended.
//!
//! Nothing is counted twice and nobody waits: two threads of the SDK read the registry and a bounded queue of spans now and then, and
//! send what is there. A span that finds the queue full is lost. Spans name no session, no room, no peer and no address.

mod readings;

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use opentelemetry::{
    Context, Key, KeyValue,
    metrics::MeterProvider as _,
    trace::{Span as _, SpanKind, Tracer as _, TracerProvider as _},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    trace::{SdkTracer, SdkTracerProvider},
};
use prometheus_client::registry::Registry;
use reqwest::{Url, redirect::Policy};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};
use tracing::{debug, warn};
use turn_relay::operation::StartError;

use self::readings::Readings;

/// What sends, if anything does.
pub(crate) struct Export(Option<Providers>);

struct Providers {
    readings: Arc<Readings>,
    meters: SdkMeterProvider,
    tracers: SdkTracerProvider,
}

/// Where shards put the sessions that have ended.
#[derive(Clone)]
pub(crate) struct SessionSpans(Option<SdkTracer>);

/// Starts to send to the collector at `endpoint`, if there is one, what is registered by now.
///
/// # Errors
/// When a variable of the environment asks for what is not there, or the system has no certificates.
pub(crate) fn open(
    endpoint: Option<&Url>,
    registry: &Arc<Registry>,
) -> Result<(Export, SessionSpans), StartError> {
    let Some(endpoint) = endpoint else { return Ok((Export(None), SessionSpans(None))) };
    let refused = |why: &dyn std::fmt::Display| StartError::new(format!("otlp_endpoint: {why}"));
    let collector = Arc::new(Collector::new().map_err(|error| refused(&error))?);
    let (metrics, spans) = exporters(endpoint, &collector).map_err(|error| refused(&error))?;
    let resource = resource();
    let meters =
        SdkMeterProvider::builder().with_periodic_exporter(metrics).with_resource(resource.clone()).build();
    let readings = Readings::of(registry, meters.meter(SCOPE));
    let tracers = SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource).build();
    let spans = SessionSpans(Some(tracers.tracer(SCOPE)));
    Ok((Export(Some(Providers { readings, meters, tracers })), spans))
}

fn exporters(
    endpoint: &Url,
    collector: &Arc<Collector>,
) -> Result<(MetricExporter, SpanExporter), ExporterBuildError> {
    let base = endpoint.as_str().trim_end_matches('/');
    let metrics = MetricExporter::builder()
        .with_http()
        .with_endpoint(format!("{base}/v1/metrics"))
        .with_shared_http_client(collector.clone())
        .build()?;
    let spans = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{base}/v1/traces"))
        .with_shared_http_client(collector.clone())
        .build()?;
    Ok((metrics, spans))
}

/// What the environment says of this process; only what it says nothing of is said here.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = Resource::builder().with_attribute(version.clone()).build();
    let unnamed = named
        .get(&Key::from_static_str("service.name"))
        .is_none_or(|name| name.as_str().starts_with("unknown_service"));
    if unnamed { Resource::builder().with_attribute(version).with_service_name(SCOPE).build() } else { named }
}

impl SessionSpans {
    /// A session that lasted until now.
    pub(crate) fn ended(&self, lived: Duration, transport: &'static str, reason: &'static str) {
        let Some(tracer) = &self.0 else { return };
        let now = SystemTime::now();
        let span = tracer
            .span_builder("session")
            .with_kind(SpanKind::Server)
            .with_start_time(now.checked_sub(lived).unwrap_or(now))
            .with_attributes([KeyValue::new("transport", transport), KeyValue::new("reason", reason)]);
        tracer.build_with_context(span, &Context::new()).end_with_timestamp(now);
    }
}

impl Export {
    /// Sends what is left, as far as the collector takes it in time.
    pub(crate) async fn flush(mut self) {
        let Some(ended) = self.end() else { return };
        if timeout(FLUSH_DEADLINE, ended).await.is_err() {
            warn!(
                "the collector of otlp_endpoint did not take the last metrics and spans in time and they are lost"
            );
        }
    }

    /// Both wait for their threads, and these for the runtime: so not on a thread of it.
    fn end(&mut self) -> Option<oneshot::Receiver<()>> {
        let Providers { readings, meters, tracers } = self.0.take()?;
        let (done, ended) = oneshot::channel();
        std::thread::spawn(move || {
            // What went wrong was said where it did.
            readings.meet();
            let _ = tracers.shutdown();
            let _ = meters.shutdown();
            let _ = done.send(());
        });
        Some(ended)
    }
}

/// The providers would wait for the collector when they are dropped.
impl Drop for Export {
    fn drop(&mut self) {
        self.end();
    }
}

/// The collector, as the SDK's threads reach it: by the runtime's client.
#[derive(Debug)]
struct Collector {
    client: reqwest::Client,
    runtime: Handle,
    warned: Mutex<Option<Instant>>,
}

impl Collector {
    fn new() -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .pool_max_idle_per_host(1)
            .build()?;
        Ok(Self { client, runtime: Handle::current(), warned: Mutex::default() })
    }

    /// Once in a while as a warning.
    fn complain(&self, why: &str) {
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_some_and(|last| now.duration_since(last) < WARN_INTERVAL) {
            return debug!("the collector took nothing: {why}");
        }
        *warned = Some(now);
        warn!(
            "the collector of otlp_endpoint does not take metrics or spans: {why}; is the address right, and does it run?"
        );
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { client.send_bytes(request).await }).await?;
        match &sent {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.complain(&format!("status {}", response.status().as_u16())),
            Err(error) => self.complain(&innermost(error).to_string()),
        }
        sent
    }
}

/// It says what happened; the outer ones repeat the URL.
fn innermost(error: &HttpError) -> &dyn Error {
    let mut cause: &dyn Error = error.as_ref();
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
}

/// The name of this service, and of what it measures with.
const SCOPE: &str = "signaling";
/// A collector that takes longer is as good as down.
const PATIENCE: Duration = Duration::from_secs(10);
/// As long as the webhook has for the last events, and beside it.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// One line tells the operator; the collector may be down for days.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
