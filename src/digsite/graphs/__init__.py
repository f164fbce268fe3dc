"""Nodes and edges of a model with one order: which part writes to the stream, and which part reads it."""

from digsite.graphs.circuit import Circuit as Circuit
from digsite.graphs.edges import Edge as Edge
from digsite.graphs.edges import EdgeSpace as EdgeSpace
from digsite.graphs.edges import edge_space as edge_space
from digsite.graphs.mib import read_mib as read_mib
from digsite.graphs.mib import write_mib as write_mib
