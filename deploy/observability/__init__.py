"""What an SRE looks at and is woken by: Prometheus' rules and Grafana's dashboards, generated from tables in Python.

`alerts` has the alerts, each with its cause; `objectives` has the objectives (SLOs), whose alerts follow from how fast
an error budget burns; `rules` makes both into Prometheus' rule groups. `panels` has what the dashboards show, and
`dashboards` builds them. `python -m deploy.observability` writes `prometheus/` and `grafana/`, which are committed.
"""
