"""The comparison of arms over seeds: cells, their statistics, tables and plots."""
