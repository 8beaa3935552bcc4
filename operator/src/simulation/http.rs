//! The simulated API server as an HTTP service, with the faults of a real one.

use super::server::{Answer, refused, text};
use super::world::{Shared, World};
use crate::shell::kinds::What;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::task::{Context, Poll};

/// A call to the API server.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    pub apply: bool,
    pub body: Value,
}

struct Parsed {
    what: What,
    namespace: String,
    name: String,
    status: bool,
}

fn kind(plural: &str) -> Option<What> {
    Some(match plural {
        "streamjobs" => What::StreamJob,
        "savepoints" => What::Savepoint,
        "configmaps" => What::ConfigMap,
        "serviceaccounts" => What::ServiceAccount,
        "services" => What::Service,
        "poddisruptionbudgets" => What::DisruptionBudget,
        "statefulsets" => What::StatefulSet,
        "pods" => What::Pod,
        "secrets" => What::Secret,
        _ => return None,
    })
}

impl Call {
    fn parse(&self) -> Option<Parsed> {
        let mut parts = self.path.split('/').skip_while(|part| *part != "namespaces").skip(1);
        let namespace = parts.next()?.to_owned();
        let what = kind(parts.next()?)?;
        let name = parts.next().unwrap_or_default().to_owned();
        Some(Parsed { what, namespace, name, status: parts.next() == Some("status") })
    }

    pub fn is_write(&self) -> bool {
        self.method != "GET" && !self.query.contains("dryRun")
    }
}

impl World {
    /// Obeys a call, as the API server would.
    pub fn obey(&mut self, call: &Call) -> Answer {
        if call.path.contains("/events") {
            self.events += u64::from(call.is_write());
            return Ok(match call.method.as_str() {
                "GET" => {
                    json!({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})
                }
                _ => call.body.clone(),
            });
        }
        let Some(Parsed { what, namespace, name, status }) = call.parse() else {
            return self.namespace(call);
        };
        let of = (what, namespace, name);
        if call.is_write() {
            self.judge(call, &of);
        }
        match call.method.as_str() {
            "GET" => {
                self.server.objects.get(&of).cloned().ok_or_else(|| refused(404, "NotFound", ""))
            }
            "POST" => {
                self.judge_made(&call.body);
                self.admit(call)?;
                let made = self.server.create(what, call.body.clone())?;
                if what == What::Pod && self.is_to_go(&made) {
                    self.asked.insert(text(&made, "/metadata/uid").to_owned());
                }
                Ok(made)
            }
            "PUT" if status => self.server.put_status(of, &call.body),
            "PATCH" if call.apply => {
                self.admit(call)?;
                self.server.apply(what, &call.body, call.query.contains("dryRun"))
            }
            "PATCH" => self.server.merge(of, &call.body),
            "DELETE" => {
                let uid = call.body.pointer("/preconditions/uid").and_then(Value::as_str);
                let grace = call.body["gracePeriodSeconds"].as_i64();
                self.server.delete(&of, uid, grace)
            }
            other => Err(refused(405, "MethodNotAllowed", other)),
        }
    }

    fn namespace(&self, call: &Call) -> Answer {
        let name = call.path.rsplit('/').next().unwrap_or_default();
        let mut meta = json!({"name": name, "uid": format!("ns-{name}")});
        if self.server.terminating.contains(name) {
            meta["deletionTimestamp"] = json!("2023-11-14T22:13:20Z");
        }
        Ok(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}))
    }

    /// What a webhook or the schema has against it.
    fn admit(&self, call: &Call) -> Result<(), super::server::Refused> {
        let image = call.body.pointer("/spec/template/spec/containers/0/image");
        match image.and_then(Value::as_str) {
            Some(image) if image.ends_with(":forbidden") => {
                Err(refused(422, "Invalid", "this image is not admitted"))
            }
            _ => Ok(()),
        }
    }

    /// A call of the operator, which may meet with a fault.
    fn serve(&mut self, call: Call) -> Result<Answer, &'static str> {
        self.step_of_operator(call.is_write())?;
        if call.is_write() {
            self.writes += 1;
            let leads = !self.overslept;
            self.promise(leads, || format!("{} {} without the lead", call.method, call.path));
            if self.tracing {
                let words = format!("{} {} {}", call.method, call.path, self.words(&call));
                self.note(words);
            }
        } else {
            self.reads += 1;
        }
        if self.chance(self.faults.api) {
            match self.rng.u8(0..6) {
                0 => return Ok(Err(refused(429, "TooManyRequests", "slow down"))),
                1 => return Ok(Err(refused(500, "InternalError", "etcd is slow"))),
                2 => return Ok(Err(refused(409, "Conflict", "please try again"))),
                3 => return Err("connection reset"),
                4 => {
                    // It happened all the same.
                    let _ = self.obey(&call);
                    return Err("timeout");
                }
                _ if call.is_write() => {
                    let at = self.server.now + self.rng.i64(0..8_000);
                    self.late.push((at, call));
                    return Err("timeout");
                }
                _ => return Err("timeout"),
            }
        }
        Ok(self.obey(&call))
    }

    fn words(&self, call: &Call) -> String {
        let body = &call.body;
        let meta = body["metadata"]["name"].as_str().unwrap_or_default();
        let replicas = &body["spec"]["replicas"];
        let ready = body["status"]["conditions"].as_array().into_iter().flatten();
        let ready: Vec<_> = ready
            .map(|c| {
                format!(
                    "{}={}/{}",
                    super::server::text(c, "/type"),
                    super::server::text(c, "/status"),
                    super::server::text(c, "/reason")
                )
            })
            .collect();
        let image = super::server::text(body, "/spec/template/spec/containers/0/image");
        format!("{meta} replicas {replicas} {image} {}", ready.join(" "))
    }
}

/// Answers calls; an error is a connection that broke.
#[derive(Clone)]
struct Service<F>(F);

impl<F> tower::Service<Request<Body>> for Service<F>
where
    F: Fn(Call) -> Result<Answer, &'static str> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let serve = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
            let kind = parts.headers.get("content-type").and_then(|v| v.to_str().ok());
            let call = Call {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                apply: kind.is_some_and(|kind| kind.contains("apply")),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            };
            let (status, body) = match serve(call).map_err(std::io::Error::other)? {
                Ok(body) => (200, body),
                Err(no) => (
                    no.code,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "metadata": {}, "message": no.message, "reason": no.reason, "code": no.code}),
                ),
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok(Response::builder().status(status).body(body).unwrap())
        })
    }
}

/// A client whose calls are answered by a function.
pub fn client_of(
    serve: impl Fn(Call) -> Result<Answer, &'static str> + Clone + Send + 'static,
) -> Client {
    Client::new(Service(serve), "default")
}

/// A client of the simulated API server.
pub fn client(world: &Shared) -> Client {
    let world = world.clone();
    client_of(move |call| world.lock().unwrap().serve(call))
}
