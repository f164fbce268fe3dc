"""The daily log: one Markdown file a day, with hours that add up and doubts that are asked about."""

from digsite.journal.log.entry import Entry as Entry
from digsite.journal.log.entry import read_entry as read_entry
from digsite.journal.log.entry import write_entry as write_entry
from digsite.journal.log.folder import Log as Log
from digsite.journal.log.judging import Flag as Flag
from digsite.journal.log.judging import flags as flags
from digsite.journal.log.judging import judge as judge
from digsite.journal.log.summary import LogSummary as LogSummary
from digsite.journal.log.summary import summarise as summarise
from digsite.journal.log.summary import summary_page as summary_page
from digsite.journal.log.summary import tags_page as tags_page
from digsite.journal.log.summary import todo_page as todo_page
from digsite.journal.log.sums import Totals as Totals
from digsite.journal.log.sums import totals as totals
from digsite.journal.log.times import Session as Session
from digsite.journal.log.times import Time as Time
from digsite.journal.log.times import spoken as spoken
from digsite.journal.log.todo import todos as todos
from digsite.journal.log.working import RunLine as RunLine
