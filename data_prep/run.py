"""The tasks of data preparation: what `whale data_prep <task>` runs."""

from whale.cli import Task
from whale.data_prep import audit, collect, config, convert, fetch, plan, tokenize, verify

TASKS = {
    "audit": Task(audit.AuditConfig, audit.audit),
    "collect": Task(config.CollectConfig, collect.collect),
    "convert": Task(config.ConvertConfig, convert.convert),
    "fetch": Task(fetch.FetchConfig, fetch.fetch),
    "plan": Task(plan.PlanConfig, plan.plan),
    "tokenize": Task(tokenize.TokenizeConfig, tokenize.tokenize),
    "verify": Task(config.VerifyConfig, verify.verify),
}
