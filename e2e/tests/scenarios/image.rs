//! The image of a program.

use anyhow::{Result, ensure};
use millrace_e2e::{Image, Scenario};

/// As strict as a pod can be: no user of the machine, no capability, a root that cannot
/// be written, and no memory to spare.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: counts}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: worker
    image: IMAGE
    args: [run, --rows, '20000', --rate, '100000', --checkpoint-interval, 100ms, --storage, /tmp/state, --output, /tmp/out]
    volumeMounts: [{name: tmp, mountPath: /tmp}]
    resources: {limits: {memory: 256Mi}}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
  volumes: [{name: tmp, emptyDir: {}}]
";

pub fn a_program_runs_without_privileges_and_with_nothing_beside_it(
    s: &mut Scenario<'_>,
) -> Result<()> {
    s.provide(Image::Counts)?;
    s.apply(&POD.replace("IMAGE", Image::Counts.name()))?;
    s.wait("pod/counts", "jsonpath={.status.phase}=Succeeded")?;
    let log = s.kubectl(&["logs", "counts"])?;
    ensure!(log.contains("attempt 1 starts from nothing"), "its log is\n{log}");
    Ok(())
}
