"""Emulate Microsoft.App/jobs: jobs, their schedules, executions and log streams.

A job's execution runs the job's command as processes of this machine (`localcloud.runtime`), each replica in
a workspace of its own, until enough of them have ended with exit code 0.

Not emulated: what `localcloud.container_apps.apps` lists for containers and images; scale rules (a job with
the trigger type `Event` is stored, and its executions are started by hand); the resource's own `suspend` and
`resume`. Executions do not survive a restart of the local cloud: they are then `Failed`. An execution is not
limited by the quotas of its environment; on Azure its replicas wait for a node.

Source: Microsoft.App REST API 2025-07-01 and 2026-01-01, Jobs and Job Executions; the Azure CLI's source;
"Jobs in Azure Container Apps" (the history has the last 100 executions that have ended).
"""
