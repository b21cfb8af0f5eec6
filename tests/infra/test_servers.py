"""The commands of infra/compose.yaml run here as processes, with a real PostgreSQL and an S3 server."""
import time

def test_a(database, team):
    t = time.time()
    team.finish("buckets"); print("buckets", time.time() - t)
    for n in ("prefect", "mlflow"):
        t = time.time()
        with team.running(n) as p:
            print(n, time.time() - t)
            from processes import below, group
            import psutil
            time.sleep(2)
            ps = [psutil.Process(x) for x in [p.pid, *below(p.pid)]]
            print(n, len(ps), sum(x.memory_info().rss for x in ps) / 2**20, sum(x.memory_full_info().pss for x in ps) / 2**20)
        t = time.time()
        with team.running(n) as p:
            print(n, "again", time.time() - t)
    print(database.run("psql", "-l"))
