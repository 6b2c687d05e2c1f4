export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 CRYOGIMBAL_TEST_DATA=/work/shared/data PYTHONPATH=/tmp/team/q2/src
cd /tmp/team/q2
taskset -c $1 /tmp/venv/bin/python benchmarks/quality.py $2 --seeds $3 --work /tmp/lab/q --options "--shifts none --noise white"
