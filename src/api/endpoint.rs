//! ServerlessEndpoint: workers by the second.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Workers that serve requests: elastic ones by the second, or a fixed number on a ResidentPool or an Inference group.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "ServerlessEndpoint",
    plural = "serverlessendpoints",
    namespaced,
    shortname = "sep",
    category = "tenure",
    derive = "PartialEq",
    status = "ServerlessEndpointStatus",
    scale(spec_replicas_path = ".spec.workers.active", status_replicas_path = ".status.workers.ready", label_selector_path = ".status.selector"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Workers", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".spec.workers.active"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.workers.max"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".spec.workers.gpus"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$')").message("the name must be a DNS label of at most 52 characters: workers and the URL are named after it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.state != 'Scheduled' || has(self.schedule)").message("state Scheduled needs a schedule: give timeZone and rules, or say Running or Stopped"))]
pub struct ServerlessEndpointSpec {
    /// Does it serve?
    #[serde(default)]
    pub state: State,
    /// Where its workers run: exactly one of serverless, residentPool and dedicatedGroup.
    pub placement: Placement,
    /// Its workers.
    pub workers: Workers,
    /// How it scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Requests that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// Clocks of a request; 0 = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Used while state is Scheduled: the last rule that fired holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// How a new template takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Who may call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The port that workers listen on.
    #[serde(default = "port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// The pod of a worker.
    #[schemars(schema_with = "super::template::schema")]
    pub template: PodTemplateSpec,
}

fn port() -> i32 {
    8080
}

/// Does it serve?
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It serves.
    #[default]
    Running,
    /// It has no workers and costs nothing.
    Stopped,
    /// It follows the schedule.
    Scheduled,
}

/// Where workers run.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.serverless) ? 1 : 0) + (has(self.residentPool) ? 1 : 0) + (has(self.dedicatedGroup) ? 1 : 0) == 1").message("give exactly one of serverless, residentPool and dedicatedGroup"))]
pub struct Placement {
    /// On shared cards, by the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serverless: Option<OnShared>,
    /// On the cards of a pool of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_pool: Option<OnPool>,
    /// On the machines of an Inference group of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedicated_group: Option<OnGroup>,
}

/// On shared cards.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OnShared {
    /// The card type.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub card_type: String,
    /// Region, for the tariff; absent: the default tariff.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::place())]
    pub region: String,
}

/// On a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OnPool {
    /// The pool.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// How many workers it has there, always.
    #[schemars(range(min = 0, max = 100_000))]
    pub instances: i32,
    /// Disk of one instance, GB.
    #[serde(rename = "diskGB")]
    #[schemars(range(min = 1, max = 100_000))]
    pub disk_gb: i32,
}

/// On a group.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OnGroup {
    /// The group.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// How many workers it has there, always.
    #[schemars(range(min = 0, max = 100_000))]
    pub instances: i32,
}

/// Workers of an endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.active <= self.max").message("active can't be more than max: raise max or lower active"))]
#[x_kube(validation = Rule::new("self.spare <= self.max").message("spare can't be more than max: raise max or lower spare"))]
pub struct Workers {
    /// Always on; the scale subresource.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub active: i32,
    /// Most workers.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max: i32,
    /// Cards per worker.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub gpus: i32,
    /// Hard limit of requests in one worker.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: i32,
    /// Idle workers kept ahead of demand.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub spare: i32,
}

fn one() -> i32 {
    1
}

/// How an endpoint scales.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Seconds without a request before the last worker goes.
    #[serde(default = "sixty")]
    #[schemars(range(min = 0, max = 86_400))]
    pub idle_seconds: i32,
    /// Seconds of lower demand before a worker goes.
    #[serde(default = "sixty")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_delay_seconds: i32,
}

fn sixty() -> i32 {
    60
}

impl Default for Scaling {
    fn default() -> Scaling {
        Scaling { idle_seconds: sixty(), scale_down_delay_seconds: sixty() }
    }
}

/// Requests that wait.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// How many.
    #[serde(default = "hundred")]
    #[schemars(range(min = 0, max = 100_000))]
    pub depth: i32,
    /// How long, seconds.
    #[serde(default = "sixty")]
    #[schemars(range(min = 0, max = 86_400))]
    pub timeout_seconds: i32,
}

fn hundred() -> i32 {
    100
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { depth: hundred(), timeout_seconds: sixty() }
    }
}

/// Clocks of a request, seconds; 0 = none.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Until the first byte of the answer.
    #[serde(default = "six_hundred")]
    #[schemars(range(min = 0, max = 86_400))]
    pub first_byte_seconds: i32,
    /// Between two bytes.
    #[serde(default = "sixty")]
    #[schemars(range(min = 0, max = 86_400))]
    pub idle_seconds: i32,
    /// In all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 604_800))]
    pub total_seconds: i32,
    /// For requests in flight when a worker has to go.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 86_400))]
    pub drain_seconds: i32,
}

fn six_hundred() -> i32 {
    600
}

fn thirty() -> i32 {
    30
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            first_byte_seconds: six_hundred(),
            idle_seconds: sixty(),
            total_seconds: 0,
            drain_seconds: thirty(),
        }
    }
}

/// When an endpoint runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// IANA time zone, e.g. Asia/Shanghai.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^(UTC|[A-Z][A-Za-z_]+(/[A-Z][-A-Za-z0-9_+]*){1,2})$')").message("must be a time zone of the IANA data base, such as Asia/Shanghai or UTC"),
        // The API server knows the zones; of one that it does not know the rule is an error, which it prints with the message.
        validation = Rule::new("timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0").message("must be a time zone of the IANA data base, such as Asia/Shanghai or UTC")
    )]
    pub time_zone: String,
    /// The rules: the last that fired holds.
    #[schemars(length(min = 1, max = 64))]
    pub rules: Vec<ScheduleRule>,
}

/// A rule of a schedule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleRule {
    /// When: a cron expression of five fields (minute, hour, day of month, month, day of week).
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = Rule::new(
        "self.matches('^(([*]|([0-9]|[1-5][0-9])(-([0-9]|[1-5][0-9]))?)(/[1-9][0-9]?)?)(,([*]|([0-9]|[1-5][0-9])(-([0-9]|[1-5][0-9]))?)(/[1-9][0-9]?)?)* (([*]|([0-9]|1[0-9]|2[0-3])(-([0-9]|1[0-9]|2[0-3]))?)(/[1-9][0-9]?)?)(,([*]|([0-9]|1[0-9]|2[0-3])(-([0-9]|1[0-9]|2[0-3]))?)(/[1-9][0-9]?)?)* (([*]|([1-9]|[12][0-9]|3[01])(-([1-9]|[12][0-9]|3[01]))?)(/[1-9][0-9]?)?)(,([*]|([1-9]|[12][0-9]|3[01])(-([1-9]|[12][0-9]|3[01]))?)(/[1-9][0-9]?)?)* (([*]|([1-9]|1[0-2])(-([1-9]|1[0-2]))?)(/[1-9][0-9]?)?)(,([*]|([1-9]|1[0-2])(-([1-9]|1[0-2]))?)(/[1-9][0-9]?)?)* (([*]|[0-7](-[0-7])?)(/[1-7])?)(,([*]|[0-7](-[0-7])?)(/[1-7])?)*$')"
    ).message("must be five cron fields in numbers: minute hour day-of-month month day-of-week, such as \"0 8 * * 1-5\""), validation = Rule::new(
        "self.findAll('[0-9]+-[0-9]+').all(r, int(r.split('-')[0]) <= int(r.split('-')[1]))"
    ).message("a range must go up, such as 1-5; write 20-8 as 20-23,0-8"))]
    pub at: String,
    /// What holds from then on.
    pub state: RuleState,
}

/// What a rule sets.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// It serves.
    Running,
    /// It has no workers.
    Stopped,
}

/// How a new template takes over.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// 0: replace a worker in place of one; n: start up to n ahead.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub surge: i32,
}

/// Who may call.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// A Secret of this namespace with the keys; empty = open inside the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::optional_object_name())]
    pub keys_secret_name: String,
}

/// How the endpoint is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServerlessEndpointStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the endpoint is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<EndpointPhase>,
    /// Ready workers / wanted workers (at least 1), e.g. 1/1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// Its workers.
    #[serde(default)]
    pub workers: WorkerCounts,
    /// Where it is called, when the operator knows the gateway's domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// What finds its workers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The revision of the template.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// The last ten decisions of the autoscaler that changed the number of workers, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub decisions: Vec<ScalingDecision>,
    /// Ready, CardsAvailable, WorkersReady.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A decision of the autoscaler, and what it was made from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecision {
    /// When.
    pub time: Time,
    /// Workers wanted from then on.
    pub wanted: i32,
    /// Workers wanted before.
    pub from: i32,
    /// Why.
    pub reason: ScalingReason,
    /// Requests in workers.
    pub in_flight: i32,
    /// Requests that waited.
    pub queued: i32,
    /// Workers that took requests.
    pub ready: i32,
}

/// Why the autoscaler wants so many workers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingReason {
    /// The requests, and `spare`.
    Demand,
    /// `active` are always on.
    Active,
    /// `max` is the most.
    Max,
    /// More were needed within `scaleDownDelaySeconds`, or the last request is not `idleSeconds` ago.
    Delayed,
    /// No request for `idleSeconds`.
    Idle,
    /// The gateway says nothing: what is there stays.
    NoData,
    /// Not known for long enough to let a worker go.
    Warming,
}

/// Where an endpoint is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointPhase {
    /// Has no workers, by its state.
    Stopped,
    /// Its first worker is on its way.
    Starting,
    /// Serves.
    Running,
    /// Scaled to zero; serves on demand.
    Idle,
    /// Its last workers finish.
    Stopping,
    /// Can't serve.
    Unavailable,
}

/// Workers by state.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkerCounts {
    /// Wanted now.
    pub wanted: i32,
    /// Ready.
    pub ready: i32,
    /// On their way.
    pub starting: i32,
    /// On their way out.
    pub draining: i32,
}
