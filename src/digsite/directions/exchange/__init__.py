"""Directions of other programs: control vectors of llama.cpp and repeng, and files of steering-vectors."""

from digsite.directions.exchange.control_vector import read_control_vector as read_control_vector
from digsite.directions.exchange.control_vector import write_control_vector as write_control_vector
from digsite.directions.exchange.reading import read_directions as read_directions
from digsite.directions.exchange.steering_vectors import read_steering_vectors as read_steering_vectors
