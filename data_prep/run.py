"""The tasks of data preparation: what `whale data_prep <task>` runs."""

from whale.cli import Task
from whale.data_prep import collect, config, convert, fetch, tokenize, verify

TASKS = {
    "collect": Task(config.CollectConfig, collect.collect),
    "convert": Task(config.ConvertConfig, convert.convert),
    "fetch": Task(fetch.FetchConfig, fetch.fetch),
    "tokenize": Task(tokenize.TokenizeConfig, tokenize.tokenize),
    "verify": Task(config.VerifyConfig, verify.verify),
}
