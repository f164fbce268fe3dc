"""The measurements that `digsite methods` tells: faithfulness on known circuits, and laws of cost."""
